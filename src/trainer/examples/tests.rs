use super::*;

fn example(texts: &[&str], targets: &[f32], class: u32) -> Example {
    let key = |text: &&str| crate::trainer::target_key(text);
    Example {
        texts: texts.iter().map(|&text| text.to_owned()).collect(),
        keys: texts.iter().map(key).collect(),
        targets: targets.to_vec(),
        class,
        weight: 1.0,
        time: 0,
    }
}

fn set(shape: Shape, examples: &[Example], loss: LossKind) -> Result<TrainingSet> {
    TrainingSet::new(shape, examples, (loss, LossOptions::default()), 3)
}

fn text(set: &TrainingSet, side: usize, example: usize) -> &str {
    &set.texts[set.sides()[side][example]].0
}

/// n queries for `positives` texts.
fn pairs(n: usize, positives: usize) -> Vec<Example> {
    (0..n).map(|i| example(&[&format!("q{i}"), &format!("p{}", i % positives)], &[], 0)).collect()
}

#[test]
fn equal_texts_have_one_number_in_each_role() {
    let examples = [example(&["a", "b"], &[], 0), example(&["b", "a"], &[], 0), example(&["a", "c"], &[], 0)];
    let set = set(Shape::Pairs, &examples, LossKind::Ranking).unwrap();
    assert_eq!(set.texts.len(), 5);
    assert_eq!(set.sides()[0][0], set.sides()[0][2]);
    assert_ne!(set.sides()[0][0], set.sides()[1][1], "read as a query and as a document");
    for (number, example) in examples.iter().enumerate() {
        assert_eq!([text(&set, 0, number), text(&set, 1, number)], example.texts[..]);
    }
    let scored = [example(&["a", "b"], &[0.5], 0), example(&["b", "a"], &[1.0], 0)];
    let set = super::TrainingSet::new(Shape::Scored, &scored, (LossKind::CoSent, LossOptions::default()), 0);
    let set = set.unwrap();
    assert_eq!(set.texts.len(), 2);
    assert!(set.texts.iter().all(|text| text.1 == Role::Document));
}

#[test]
fn triplets_with_fewer_negatives_repeat_their_own_and_count_them_once() {
    let examples =
        [example(&["q", "p", "m", "n"], &[4.0, 3.0, 2.0], 0), example(&["r", "s", "o"], &[6.0, 5.0], 0)];
    let set = set(Shape::Triplets, &examples, LossKind::Distillation).unwrap();
    assert_eq!([text(&set, 2, 1), text(&set, 3, 1)], ["o", "o"]);
    assert_eq!(set.targets(1), [6.0, 5.0, 5.0]);
    // Columns: s, p; o, m; o, n.
    let repeated = [false, false, false, false, true, false];
    assert_eq!(set.mask(&[1, 0]), [repeated, repeated].concat());
    let margins = [example(&["q", "p", "m", "n"], &[0.5, 0.25], 0), example(&["r", "s", "o"], &[1.0], 0)];
    let set =
        super::TrainingSet::new(Shape::Triplets, &margins, (LossKind::MarginMse, LossOptions::default()), 0);
    assert_eq!(set.unwrap().targets(1), [1.0, 1.0]);
}

/// Some examples in batches.
fn batches(set: &TrainingSet, mut examples: Vec<usize>, count: usize, seed: u64) -> Vec<Vec<usize>> {
    Rng::new(seed).shuffle(&mut examples);
    set.arrange(&mut examples, count);
    let n = examples.len();
    (0..count).map(|i| examples[i * n / count..(i + 1) * n / count].to_vec()).collect()
}

#[test]
fn every_example_comes_once_and_copies_of_a_positive_lie_in_different_batches() {
    // Ten batches of ten; each positive is there up to nine times.
    let set = set(Shape::Pairs, &pairs(98, 11), LossKind::Ranking).unwrap();
    let all: Vec<usize> = (0..98).collect();
    for seed in 0..20 {
        let batches = batches(&set, all.clone(), 10, seed);
        let mut seen = batches.concat();
        seen.sort_unstable();
        assert_eq!(seen, all);
        let twice = |batch: &Vec<usize>| {
            let positives: std::collections::HashSet<usize> = batch.iter().map(|i| i % 11).collect();
            batch.len() - positives.len()
        };
        // Where the last round begins, one may come twice.
        assert!(batches.iter().map(twice).sum::<usize>() <= 1);
    }
    assert_eq!(batches(&set, all.clone(), 10, 1), batches(&set, all.clone(), 10, 1));
    assert_ne!(batches(&set, all.clone(), 10, 1), batches(&set, all, 10, 2));
    let mut few = batches(&set, vec![3, 5, 8], 2, 0).concat();
    few.sort_unstable();
    assert_eq!(few, [3, 5, 8]);
    // Rows of a loop are places among the examples trained on.
    let some: Vec<usize> = (40..98).collect();
    let learning = Learning {
        set: &set,
        examples: &some,
        loss: set.loss(&[4]),
        by_example: true,
        dim: 4,
        guide: (&[], 0),
    };
    let mut rows: Vec<usize> = (0..58).collect();
    learning.arrange(&mut rows, 6);
    assert_ne!(rows, (0..58).collect::<Vec<_>>());
    assert_eq!(learning.texts(&[0, 57]), [[40, 97], [98 + 40, 98 + 97]]);
    rows.sort_unstable();
    assert_eq!(rows, (0..58).collect::<Vec<_>>());
}

/// 60 texts of 7 classes, of which the last has one.
fn classes() -> Vec<Example> {
    (0..60).map(|i| example(&[&format!("t{i}")], &[], if i == 59 { 6 } else { i % 6 })).collect()
}

#[test]
fn a_batch_of_classes_has_several_texts_of_each() {
    let set = set(Shape::Classes, &classes(), LossKind::BatchHard).unwrap();
    let all: Vec<usize> = (0..60).collect();
    let batches = batches(&set, all.clone(), 3, 1);
    let mut seen = batches.concat();
    seen.sort_unstable();
    assert_eq!(seen, all);
    let alone = |batch: &Vec<usize>| {
        let classes = pick(set.classes(), batch);
        classes.iter().filter(|&c| classes.iter().filter(|o| *o == c).count() == 1).count()
    };
    // The one that is alone in its class, and what a border between batches cut off.
    assert!(batches.iter().map(alone).sum::<usize>() <= 3);
}

#[test]
fn within_classes_each_text_makes_a_pair_that_knows_its_class() {
    let examples = classes();
    let set = set(Shape::Classes, &examples, LossKind::Ranking).unwrap();
    assert_eq!((set.count(), set.sides().len()), (59, 2));
    for at in 0..59 {
        let class = |side| examples[text(&set, side, at)[1..].parse::<usize>().unwrap()].class;
        assert_eq!((class(0), class(1)), (set.classes()[at], set.classes()[at]));
        assert_ne!(text(&set, 0, at), text(&set, 1, at));
    }
    let same: Vec<usize> = (0..59).filter(|&at| set.classes()[at] == set.classes()[0]).take(3).collect();
    let excluded = set.mask(&same).iter().filter(|&&out| out).count();
    assert_eq!(excluded, 6, "only the own positives are left");
}

#[test]
fn a_batch_gives_the_loss_of_its_rows_and_its_guides() {
    let set = set(Shape::Pairs, &pairs(6, 6), LossKind::Guided).unwrap();
    let mut rng = Rng::new(5);
    let mut rows = |n: usize| -> Vec<f32> { (0..n).map(|_| rng.below(200) as f32 / 100.0 - 1.0).collect() };
    let (own, guide) = (rows(6 * 4), rows(set.texts.len() * 3));
    let examples = [4, 1, 2];
    let learning = |guide| Learning {
        set: &set,
        examples: &examples,
        loss: set.loss(&[2, 4]),
        by_example: false,
        dim: 4,
        guide,
    };
    let sides = [&own[..12], &own[12..]];
    let slope = learning((&guide, 3)).slope(&[0, 1, 2], &sides).unwrap();
    let guide_of = |side: usize| -> Vec<f32> {
        let texts = pick(&set.sides()[side], &examples);
        texts.iter().flat_map(|text| guide[text * 3..][..3].to_vec()).collect()
    };
    let batch = Batch {
        sides: &sides,
        dim: 4,
        guide: Some(Guide { sides: &[&guide_of(0), &guide_of(1)], dim: 3 }),
        ..Batch::default()
    };
    let expected = set.loss(&[2, 4]).of(&batch).unwrap();
    assert_eq!(slope, expected);
    assert!(learning((&[], 3)).slope(&[0, 1, 2], &sides).is_err());
    assert!(learning((&guide, 3)).slope(&[0, 1, 2], &sides[..1]).is_err());
}

#[test]
fn what_a_loss_lacks_is_said() {
    let pair = [example(&["a", "b"], &[], 0)];
    let scored = [example(&["a", "b"], &[0.5], 0)];
    let triplet = [example(&["a", "b", "c"], &[], 0)];
    let margin = [example(&["a", "b", "c"], &[0.5], 0)];
    let light = [Example { weight: 0.0, ..example(&["a", "b"], &[], 0) }];
    for (shape, examples, loss, needle) in [
        (Shape::Pairs, &pair, LossKind::Triplet, "does not learn from pairs"),
        (Shape::Scored, &scored, LossKind::OnlineContrastive, "needs labels"),
        (Shape::Triplets, &triplet, LossKind::MarginMse, "\"margin\""),
        (Shape::Triplets, &margin, LossKind::Distillation, "\"scores\""),
        (Shape::Triplets, &pair, LossKind::Ranking, "no part of triplets"),
        (Shape::Scored, &pair, LossKind::Cosine, "no part of scored pairs"),
        (Shape::Pairs, &light, LossKind::Ranking, "weight"),
    ] {
        let error = set(shape, examples, loss).unwrap_err();
        assert!(error.exit_code() == 1 && error.to_string().contains(needle), "{error}");
    }
    assert!(set(Shape::Triplets, &margin, LossKind::MarginMse).is_ok());
}
