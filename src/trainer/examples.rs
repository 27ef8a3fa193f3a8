//! What a step trains on: examples of any shape, by the numbers of their texts.
//!
//! The texts of a run are known by number, each distinct one once for each role, so that it is made ready once and embedded
//! once in a batch. An example has as many sides as its loss takes, and all have the same number: a triplet with fewer
//! negatives than another repeats its own, which the mask of [`KnownPositives`] then counts once.
//!
//! Texts with classes are learnt from one by one by the losses of classes; for the others each makes a pair with another
//! text of its class, and all texts of the class are known to answer it.
//!
//! Batches are dealt so that they teach most:
//! - of pairs and triplets no two in a batch have the same positive, as far as that can be: all copies of a positive are
//!   dealt one after the other to as many batches as there are. Copies within a batch could not be told apart, and would
//!   leave fewer negatives;
//! - of texts with classes a batch holds several of each class ([`PER_CLASS`]), or no positive were to be found in it.
//!
//! Every example comes once in an epoch, and the same shuffled order gives the same batches.

use std::collections::HashMap;

use super::data::Shape;
use super::fit::Objective;
use super::losses::arithmetic::gathered;
use super::losses::{Batch, Guide, KnownPositives, Loss, LossKind, LossOptions, Matryoshka, Slope};
use super::rng::Rng;
use crate::encoder::Role;
use crate::error::{Error, Result};

/// Texts of a class in a batch, where there are so many.
pub const PER_CLASS: usize = 4;

/// A record whose texts are known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// As of [`Record::texts`](super::data::Record::texts).
    pub texts: Vec<String>,
    /// Identity of each: [`query_key`](super::split::query_key) of a query, [`target_key`](super::split::target_key) of a
    /// document's id or of a text.
    pub keys: Vec<u64>,
    /// As of [`Record::targets`](super::data::Record::targets).
    pub targets: Vec<f32>,
    /// As of [`Record::class`](super::data::Record::class).
    pub class: u32,
    /// Share in the loss; positive.
    pub weight: f32,
    /// When it was observed, in microseconds since 1970; 0 if unknown.
    pub time: u64,
}

/// All that a run learns from, and by which loss.
#[derive(Debug, Clone)]
pub struct TrainingSet {
    /// The texts by number, each with what it is read as.
    pub texts: Vec<(String, Role)>,
    /// The loss.
    pub loss: LossKind,
    /// What is set of it.
    pub options: LossOptions,
    shape: Shape,
    /// For each side the text of each example.
    sides: Vec<Vec<usize>>,
    /// For each side the identity of each example's text; of classes the class is the identity of the second.
    keys: Vec<Vec<u64>>,
    /// So many for each example.
    targets: Vec<Vec<f32>>,
    classes: Vec<u32>,
    weights: Vec<f32>,
    known: KnownPositives,
}

impl TrainingSet {
    /// Examples of a shape, to be learnt by a loss. `seed` decides which texts of a class make a pair.
    ///
    /// # Errors
    /// [`Error::Input`] if the loss does not learn from this shape, or lacks what a teacher should have said, and for
    /// examples that contradict their shape.
    pub fn new<'e>(
        shape: Shape,
        examples: &'e [Example],
        (loss, options): (LossKind, LossOptions),
        seed: u64,
    ) -> Result<Self> {
        loss.check(shape)?;
        check(shape, loss, examples)?;
        let mut set = Self::empty(shape, loss, options);
        let mut numbers: HashMap<(&'e str, bool), usize> = HashMap::new();
        let width = examples.iter().map(|example| example.texts.len()).max().unwrap_or(0);
        for side in 0..width {
            let query = shape.has_query() && side == 0;
            let role = if query { Role::Query } else { Role::Document };
            let at = |example: &Example| repeated(side, example.texts.len());
            let texts = &mut set.texts;
            let number = |example: &'e Example| {
                let text = example.texts.get(at(example)).map_or("", String::as_str);
                *numbers.entry((text, query)).or_insert_with(|| {
                    texts.push((text.to_owned(), role));
                    texts.len() - 1
                })
            };
            set.sides.push(examples.iter().map(number).collect());
            let key = |example: &Example| example.keys.get(at(example)).copied().unwrap_or_default();
            set.keys.push(examples.iter().map(key).collect());
        }
        set.targets = examples.iter().map(|example| padded(example, width)).collect();
        set.classes = examples.iter().map(|example| example.class).collect();
        set.weights = examples.iter().map(|example| example.weight).collect();
        if shape == Shape::Classes && !loss.by_class() {
            set.pair_within_classes(seed);
        }
        if let [queries, positives, ..] = set.keys.as_slice() {
            set.known = KnownPositives::new(queries, positives);
        }
        Ok(set)
    }

    fn empty(shape: Shape, loss: LossKind, options: LossOptions) -> Self {
        Self {
            texts: Vec::new(),
            loss,
            options,
            shape,
            sides: Vec::new(),
            keys: Vec::new(),
            targets: Vec::new(),
            classes: Vec::new(),
            weights: Vec::new(),
            known: KnownPositives::default(),
        }
    }

    /// Gives each text another of its class as its positive; texts that are alone in theirs are left out.
    fn pair_within_classes(&mut self, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
        for (example, class) in self.classes.iter().enumerate() {
            members.entry(*class).or_default().push(example);
        }
        let mut classes: Vec<Vec<usize>> = members.into_values().filter(|list| list.len() > 1).collect();
        classes.sort_unstable();
        let (mut kept, mut partners) = (Vec::new(), Vec::new());
        for mut members in classes {
            // In a ring every text is the positive of one other.
            rng.shuffle(&mut members);
            partners.extend(members.iter().skip(1).chain(members.first()).copied());
            kept.append(&mut members);
        }
        let of = |side: &Vec<usize>, examples: &[usize]| pick(side, examples);
        let texts = self.sides.first().cloned().unwrap_or_default();
        let keys = self.keys.first().cloned().unwrap_or_default();
        self.classes = pick(&self.classes, &kept);
        self.weights = pick(&self.weights, &kept);
        self.targets = vec![Vec::new(); kept.len()];
        self.sides = vec![of(&texts, &kept), of(&texts, &partners)];
        self.keys = vec![pick(&keys, &kept), self.classes.iter().map(|&class| u64::from(class)).collect()];
    }

    /// Examples.
    pub fn count(&self) -> usize {
        self.weights.len()
    }

    /// What the data were.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// For each side the number of each example's text.
    pub fn sides(&self) -> &[Vec<usize>] {
        &self.sides
    }

    /// For each side the identity of each example's text.
    pub fn keys(&self) -> &[Vec<u64>] {
        &self.keys
    }

    /// For each example its class, where it has one.
    pub fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// What is wanted of an example.
    pub fn targets(&self, example: usize) -> &[f32] {
        self.targets.get(example).map_or(&[], Vec::as_slice)
    }

    /// Share of an example in the loss.
    pub fn weight(&self, example: usize) -> f64 {
        self.weights.get(example).map_or(0.0, |&weight| f64::from(weight))
    }

    /// Rows of the texts by number, each of `dim` values, as the examples have them: side after side.
    pub fn side_rows(&self, rows: &[f32], dim: usize) -> Vec<f32> {
        gathered(rows, &self.sides.concat(), dim)
    }

    /// All numbers that a run depends on, beside texts and loss.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        let numbers = self.sides.iter().flatten().map(|&text| text as u64);
        let keys = self.keys.iter().flatten().copied();
        let classes = self.classes.iter().map(|&class| u64::from(class));
        let values = self.targets.iter().flatten().chain(&self.weights);
        numbers.chain(keys).chain(classes).chain(values.map(|value| u64::from(value.to_bits())))
    }

    /// The loss on every rung of a ladder.
    pub fn loss(&self, ladder: &[usize]) -> Matryoshka {
        self.loss.build(ladder, &self.options)
    }

    /// Puts examples, shuffled, into the order in which they are cut into so many batches.
    pub fn arrange(&self, examples: &mut [usize], batches: usize) {
        if self.shape == Shape::Scored || batches < 2 {
            return;
        }
        let by_class = self.loss.by_class();
        let key = |example: usize| match self.keys.get(1) {
            Some(positives) if !by_class => positives.get(example).copied().unwrap_or_default(),
            _ => u64::from(self.classes.get(example).copied().unwrap_or_default()),
        };
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for &example in examples.iter() {
            let place = *places.entry(key(example)).or_insert(groups.len());
            match groups.get_mut(place) {
                Some(group) => group.push(example),
                None => groups.push(vec![example]),
            }
        }
        // The order in is random already; what it decides is the same whenever it comes again.
        let mut rng = Rng::new(examples.first().map_or(0, |&first| first as u64));
        let arranged = match by_class {
            true => together(groups, &mut rng),
            false => apart(&groups, examples.len(), batches, &mut rng),
        };
        examples.iter_mut().zip(arranged).for_each(|(to, from)| *to = from);
    }

    /// The loss of some examples, given each side's rows of `dim` values; `guide`: those of a guide.
    ///
    /// # Errors
    /// [`Error::Input`] if the lengths contradict each other, or the loss needs a guide and there is none.
    pub fn slope(
        &self,
        loss: &dyn Loss,
        examples: &[usize],
        (sides, dim): (&[&[f32]], usize),
        guide: Option<Guide<'_>>,
    ) -> Result<Slope> {
        let targets: Vec<f32> = examples.iter().flat_map(|&example| self.targets(example)).copied().collect();
        loss.of(&Batch {
            sides,
            dim,
            normalised: false,
            weights: &pick(&self.weights, examples),
            targets: &targets,
            classes: &pick(&self.classes, examples),
            excluded: &self.mask(examples),
            guide,
        })
    }

    /// What is no negative in a batch of examples.
    fn mask(&self, examples: &[usize]) -> Vec<bool> {
        if self.shape == Shape::Scored {
            return Vec::new();
        }
        let keys: Vec<Vec<u64>> = self.keys.iter().map(|side| pick(side, examples)).collect();
        match keys.split_first() {
            Some((queries, documents)) if !documents.is_empty() => {
                self.known.mask(queries, &documents.concat())
            }
            _ => Vec::new(),
        }
    }
}

/// What training asks of the embeddings of a set's texts.
pub(super) struct Learning<'a> {
    pub set: &'a TrainingSet,
    /// The examples trained on, in the order of the loop's rows.
    pub examples: &'a [usize],
    pub loss: Matryoshka,
    /// Whether the model numbers texts anew for each example, side after side, and not as the set does.
    pub by_example: bool,
    /// Dimensions of the model.
    pub dim: usize,
    /// A guide's rows, numbered as the model's texts, and its dimensions; used if the loss asks for them.
    pub guide: (&'a [f32], usize),
}

impl Objective for Learning<'_> {
    fn texts(&self, rows: &[usize]) -> Vec<Vec<usize>> {
        let examples = pick(self.examples, rows);
        let side = |(number, side): (usize, &Vec<usize>)| match self.by_example {
            true => examples.iter().map(|example| number * self.set.count() + example).collect(),
            false => pick(side, &examples),
        };
        self.set.sides.iter().enumerate().map(side).collect()
    }

    fn slope(&self, rows: &[usize], sides: &[&[f32]]) -> Result<Slope> {
        let examples = pick(self.examples, rows);
        let (guide, dim) = self.guide;
        let guided: Vec<Vec<f32>> = match self.set.loss.guided() {
            true => self.texts(rows).iter().map(|side| gathered(guide, side, dim)).collect(),
            false => Vec::new(),
        };
        let guided: Vec<&[f32]> = guided.iter().map(Vec::as_slice).collect();
        let guide = (!guided.is_empty()).then_some(Guide { sides: &guided, dim });
        self.set.slope(&self.loss, &examples, (sides, self.dim), guide)
    }

    fn arrange(&self, rows: &mut [usize], batches: usize) {
        let mut examples = pick(self.examples, rows);
        let back: HashMap<usize, usize> = examples.iter().copied().zip(rows.iter().copied()).collect();
        self.set.arrange(&mut examples, batches);
        for (row, example) in rows.iter_mut().zip(&examples) {
            *row = back.get(example).copied().unwrap_or(*row);
        }
    }
}

/// Deals groups to batches so that the members of one go to as many as there are.
fn apart(groups: &[Vec<usize>], total: usize, batches: usize, rng: &mut Rng) -> Vec<usize> {
    let room = |batch: usize| (batch + 1) * total / batches - batch * total / batches;
    // Neighbours in dealing are none in time.
    let mut order: Vec<usize> = (0..batches).collect();
    rng.shuffle(&mut order);
    let mut dealt: Vec<Vec<usize>> = vec![Vec::new(); batches];
    let mut turn = order.iter().copied().cycle();
    for &example in groups.iter().flatten() {
        // All batches have room until the last round, in which some are larger by one.
        let open = |batch: &usize| dealt.get(*batch).is_some_and(|dealt| dealt.len() < room(*batch));
        let batch = turn.by_ref().take(batches).find(open);
        if let Some(batch) = batch.and_then(|batch| dealt.get_mut(batch)) {
            batch.push(example);
        }
    }
    dealt.concat()
}

/// Cuts groups into handfuls and lays them one after the other.
fn together(groups: Vec<Vec<usize>>, rng: &mut Rng) -> Vec<usize> {
    let mut handfuls: Vec<Vec<usize>> = Vec::new();
    for group in groups {
        // Evenly, so that none is left alone where there are two.
        let parts = group.len().div_ceil(PER_CLASS);
        let cut = |i: usize| group.get(i * group.len() / parts..(i + 1) * group.len() / parts);
        handfuls.extend((0..parts).filter_map(cut).map(<[usize]>::to_vec));
    }
    rng.shuffle(&mut handfuls);
    handfuls.concat()
}

/// Which of an example's texts stands on a side: beyond its own negatives they begin again.
fn repeated(side: usize, texts: usize) -> usize {
    if side < texts || texts <= 2 { side } else { 2 + (side - 2) % (texts - 2) }
}

/// Targets of an example, with those of repeated negatives.
fn padded(example: &Example, width: usize) -> Vec<f32> {
    let (texts, targets) = (example.texts.len(), &example.targets);
    if targets.is_empty() || texts <= 2 || texts == width {
        return targets.clone();
    }
    let skipped = texts - targets.len();
    (skipped..width).filter_map(|side| targets.get(repeated(side, texts) - skipped).copied()).collect()
}

fn check(shape: Shape, loss: LossKind, examples: &[Example]) -> Result<()> {
    let texts = match shape {
        Shape::Pairs | Shape::Scored => 2..=2,
        Shape::Triplets => 3..=usize::MAX,
        Shape::Classes => 1..=1,
    };
    for example in examples {
        let (n, targets) = (example.texts.len(), example.targets.len());
        let whole = texts.contains(&n)
            && example.keys.len() == n
            && match shape {
                Shape::Scored => targets == 1,
                Shape::Triplets => [0, n - 2, n - 1].contains(&targets),
                Shape::Pairs | Shape::Classes => targets == 0,
            };
        if !whole {
            return Err(Error::input(format!("training: an example of {n} texts is no part of {shape}")));
        }
        if !(example.weight.is_finite() && example.weight > 0.0) {
            return Err(Error::input("training: an example's weight is not a positive number"));
        }
    }
    check_targets(loss, examples)
}

/// Refuses data without what the loss wants to be told.
fn check_targets(loss: LossKind, examples: &[Example]) -> Result<()> {
    let all = |told: fn(&Example) -> bool| examples.iter().all(told);
    let wrong = match loss {
        LossKind::MarginMse if !all(|e| !e.targets.is_empty()) => {
            "learns a teacher's margins: every line needs a \"margin\" (or \"margins\", or \"scores\")"
        }
        LossKind::Distillation if !all(|e| e.targets.len() + 1 == e.texts.len()) => {
            "learns a teacher's scores: every line needs \"scores\", of the positive and each negative"
        }
        LossKind::OnlineContrastive if !all(|e| e.targets.iter().all(|t| [0.0, 1.0].contains(t))) => {
            "needs labels, 0 or 1; from scores between them cosent, cosine and contrastive learn"
        }
        _ => return Ok(()),
    };
    Err(Error::input(format!("the loss {loss} {wrong}")))
}

fn pick<T: Copy>(from: &[T], rows: &[usize]) -> Vec<T> {
    rows.iter().filter_map(|&row| from.get(row).copied()).collect()
}

#[cfg(test)]
mod tests;
