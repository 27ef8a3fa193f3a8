//! The way forward and back against the model on tensors, whose gradients the tensor library finds.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use super::*;
use crate::encoder::batch::TokenBatch;
use crate::encoder::bert::Bert;
use crate::encoder::config::{Activation, DenseConfig};
use crate::encoder::device::OnDevice;
use crate::encoder::family::bert::Kind;
use crate::encoder::reference::Head;
use crate::encoder::weights::Weights;

/// Numbers of xorshift64, uniform in −1..1.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

const VOCABULARY: usize = 50;

fn config(kind: Kind, heads: usize, head_dim: usize, intermediate: usize) -> BertConfig {
    let plain = matches!(kind, Kind::Mpnet | Kind::DistilBert);
    BertConfig {
        kind,
        vocabulary: VOCABULARY,
        hidden: heads * head_dim,
        layers: 3,
        heads,
        intermediate,
        positions: 300,
        token_types: if plain { 0 } else { 2 },
        epsilon: 1e-5,
        pad: if kind == Kind::Bert { 0 } else { 1 },
        distances: if kind == Kind::Mpnet { 8 } else { 0 },
    }
}

fn dense(inputs: usize) -> Vec<DenseConfig> {
    let layer = |path: &str, inputs, outputs, bias, activation| DenseConfig {
        path: path.into(),
        inputs,
        outputs,
        bias,
        activation,
    };
    vec![
        layer("2_Dense", inputs, 11, true, Activation::Tanh),
        layer("3_Dense", 11, 7, false, Activation::Identity),
    ]
}

/// Which parameters learn.
type Learns = fn(&str) -> bool;

/// Parameters of the size that training leaves: products neither vanish nor grow.
fn parameters(config: &BertConfig, learns: Learns) -> Parameters {
    let mut next = random(3);
    let mut shapes = config.shapes();
    for layer in dense(config.hidden) {
        shapes.push((format!("{}/linear.weight", layer.path), vec![layer.outputs, layer.inputs]));
        if layer.bias {
            shapes.push((format!("{}/linear.bias", layer.path), vec![layer.outputs]));
        }
    }
    let parameter = |(name, shape): (String, Vec<usize>)| {
        let around = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let size = match shape.as_slice() {
            [_, inputs] => 2.0 / (*inputs as f32).sqrt(),
            _ => 0.2,
        };
        let values = (0..shape.iter().product()).map(|_| around + size * next()).collect();
        match (learns(&name), shape.as_slice()) {
            (false, _) => Parameter::frozen(name, shape, values),
            (true, &[rows, width]) if name.contains("word_emb") => {
                Parameter::table(name, [rows, width], values)
            }
            (true, _) => Parameter::new(name, shape, values),
        }
    };
    Parameters::new(shapes.into_iter().map(parameter).collect())
}

/// With matrices of low rank for queries and for the second feed-forward layer.
fn low_rank(config: &BertConfig) -> Parameters {
    let mut all: Vec<Parameter> = parameters(config, |_| false).iter().cloned().collect();
    let mut next = random(8);
    let mut values = |count: usize| (0..count).map(|_| 0.3 * next()).collect::<Vec<f32>>();
    for layer in 0..config.layers {
        for (matrix, inputs) in
            [("attention.self.query", config.hidden), ("output.dense", config.intermediate)]
        {
            let name = |end: &str| format!("encoder.layer.{layer}.{matrix}.{end}");
            all.push(Parameter::new(name(LOW[0]), vec![2, inputs], values(2 * inputs)));
            all.push(Parameter::new(name(LOW[1]), vec![config.hidden, 2], values(2 * config.hidden)));
            all.push(Parameter::frozen(name(LOW_SCALE), vec![1], vec![1.5]));
        }
    }
    Parameters::new(all)
}

/// Texts of one token, of more than a tile, and between; a strip is not enough.
fn texts(seed: u64) -> Vec<Vec<u32>> {
    let mut next = random(seed ^ 77);
    let lengths = [1, 7, 140, 33, 2, 64, 5, 130, 17];
    lengths
        .iter()
        .map(|&n| (0..n).map(|_| ((next() + 1.0) * 25.0) as u32 % VOCABULARY as u32).collect())
        .collect()
}

fn slopes(count: usize) -> Vec<f32> {
    let mut next = random(5);
    (0..count).map(|_| next()).collect()
}

fn adapter() -> Vec<f32> {
    let mut next = random(9);
    (0..49).map(|_| next()).collect()
}

/// Vectors, and the gradient of each parameter that learns.
type Outcome = (Vec<f32>, BTreeMap<String, Vec<f32>>);

fn all_values(parameter: &Parameter) -> Vec<f32> {
    match &parameter.gradient {
        crate::encoder::parameters::Gradient::Rows(rows) => (0..parameter.shape[0])
            .flat_map(|row| rows.row(row).map_or_else(|| vec![0.0; rows.width()], <[f32]>::to_vec))
            .collect(),
        gradient => gradient.values().to_vec(),
    }
}

struct Packed {
    transformer: Transformer,
    /// Computes instead of it.
    on_device: Option<OnDevice>,
    head: PackedHead,
    parameters: Parameters,
}

impl Packed {
    fn new(
        config: &BertConfig,
        pooling: Pooling,
        parameters: Parameters,
        kept: usize,
        threads: usize,
    ) -> Self {
        let transformer = Transformer::new(config, pooling, &parameters, kept, threads).unwrap();
        let head = PackedHead::new(&dense(config.hidden), 7, &parameters, Some(&adapter())).unwrap();
        Self { transformer, on_device: None, head, parameters }
    }

    /// The same on a device of the tensor library.
    fn on_device(config: &BertConfig, pooling: Pooling, parameters: Parameters) -> Self {
        let model = Self::new(config, pooling, parameters, 0, 1);
        let first = model.transformer.first;
        let on_device = OnDevice::new(config, pooling, &model.parameters, first, Device::Cpu).unwrap();
        Self { on_device: Some(on_device), ..model }
    }

    fn learn(&mut self, texts: &[Input<'_>]) -> Outcome {
        self.parameters.clear();
        let vectors = match &self.on_device {
            Some(on_device) => {
                let (pooled, tape) = on_device.forward(&self.parameters, texts).unwrap();
                let (vectors, head) = self.head.forward(&self.parameters, pooled);
                let pooled = self.head.back(&mut self.parameters, &head, &slopes(vectors.len()));
                on_device.back(&mut self.parameters, &tape, &pooled).unwrap();
                vectors
            }
            None => {
                let (pooled, tape) = self.transformer.forward(&self.parameters, texts, true).unwrap();
                let (vectors, head) = self.head.forward(&self.parameters, pooled);
                let pooled = self.head.back(&mut self.parameters, &head, &slopes(vectors.len()));
                self.transformer.back(&mut self.parameters, tape, &pooled);
                vectors
            }
        };
        let gradients = self.parameters.learning().map(|p| (p.name.clone(), all_values(p))).collect();
        (vectors, gradients)
    }
}

fn inputs(texts: &[Vec<u32>]) -> Vec<Input<'_>> {
    texts.iter().map(|ids| Input { ids, states: None }).collect()
}

/// The same on tensors.
fn expected(config: &BertConfig, pooling: Pooling, parameters: &Parameters, texts: &[Vec<u32>]) -> Outcome {
    let mut variables: BTreeMap<String, Var> = BTreeMap::new();
    let mut tensors = Weights::new();
    for parameter in parameters.iter() {
        let shape = parameter.shape.as_slice();
        let tensor = Tensor::from_slice(&parameter.values, shape, &Device::Cpu).unwrap();
        let tensor = match parameter.learns() {
            true => {
                let variable = Var::from_tensor(&tensor).unwrap();
                variables.insert(parameter.name.clone(), variable.clone());
                variable.as_tensor().clone()
            }
            false => tensor,
        };
        tensors.insert(parameter.name.clone(), tensor);
    }
    let matrices: Vec<String> =
        tensors.keys().filter_map(|name| name.strip_suffix(LOW[0]).map(str::to_owned)).collect();
    for matrix in matrices {
        let of = |end: &str| &tensors[&format!("{matrix}{end}")];
        let scale = f64::from(of(LOW_SCALE).to_vec1::<f32>().unwrap()[0]);
        let learnt = (of(LOW[1]).matmul(of(LOW[0])).unwrap() * scale).unwrap();
        let sum = (of("weight") + learnt).unwrap();
        tensors.insert(format!("{matrix}weight"), sum);
    }
    let adapter = Tensor::from_vec(adapter(), (7, 7), &Device::Cpu).unwrap();
    let rows: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let batch = TokenBatch::new(&rows, config.pad).unwrap();
    let states = Bert::new(config, &tensors).unwrap().forward(&batch).unwrap();
    let head = Head::new(pooling, &dense(config.hidden), &tensors, Some(adapter));
    let vectors = head.apply(&states, &batch).unwrap();
    let slope = Tensor::from_vec(slopes(vectors.elem_count()), vectors.dims(), &Device::Cpu).unwrap();
    let gradients = (&vectors * slope).unwrap().sum_all().unwrap().backward().unwrap();
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let gradient = |(name, variable): (String, Var)| {
        let gradient = gradients.get(variable.as_tensor()).unwrap_or_else(|| panic!("{name} has none"));
        (name, flat(gradient))
    };
    (flat(&vectors), variables.into_iter().map(gradient).collect())
}

fn most(values: &[f32]) -> f32 {
    values.iter().fold(0f32, |most, value| most.max(value.abs()))
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0f32, |most, (a, b)| most.max((a - b).abs()))
}

fn assert_near((vectors, gradients): &Outcome, (wanted, expected): &Outcome, what: &str) {
    assert!(apart(vectors, wanted) < 1e-4 * most(wanted), "{what}");
    assert!(gradients.keys().eq(expected.keys()), "{what}");
    for (name, expected) in expected {
        // A key's bias adds the same to all scores of a query, which softmax takes away again.
        let all = if name.ends_with("key.bias") { 1.0 } else { most(expected) };
        assert!(all > 1e-3, "{what}: {name}: {all}");
        let apart = apart(&gradients[name], expected);
        assert!(apart <= 1e-3 * all, "{what}: {name}: {apart} of {all}");
    }
}

const SHAPES: [(Kind, usize, usize, usize); 4] = [
    (Kind::Bert, 3, 5, 37),
    (Kind::Mpnet, 2, 17, 33),
    (Kind::Roberta, 1, 6, 20),
    (Kind::DistilBert, 4, 8, 64),
];

#[test]
fn every_gradient_is_that_of_the_tensor_library() {
    for (kind, heads, head_dim, intermediate) in SHAPES {
        let config = config(kind, heads, head_dim, intermediate);
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::Max] {
            let texts = texts(1);
            let expected = expected(&config, pooling, &parameters(&config, |_| true), &texts);
            let mut model = Packed::new(&config, pooling, parameters(&config, |_| true), 1 << 30, 2);
            assert_near(&model.learn(&inputs(&texts)), &expected, &format!("{kind:?}, {pooling:?}"));
        }
    }
}

#[test]
fn what_does_not_learn_has_no_gradient_and_changes_no_other() {
    let (kind, heads, head_dim, intermediate) = SHAPES[1];
    let config = config(kind, heads, head_dim, intermediate);
    let cases: [(&str, Learns); 4] = [
        ("the upper layers", |name| name.starts_with("encoder.layer.2") || name.contains("Dense/")),
        ("dense layers", |name| name.contains("Dense/")),
        ("the lowest layer alone", |name| name.starts_with("encoder.layer.0")),
        ("words alone", |name| name.contains("word_emb")),
    ];
    for (what, learns) in cases {
        let texts = texts(2);
        let expected = expected(&config, Pooling::Mean, &parameters(&config, learns), &texts);
        let mut model = Packed::new(&config, Pooling::Mean, parameters(&config, learns), 1 << 30, 2);
        assert_near(&model.learn(&inputs(&texts)), &expected, what);
    }
}

#[test]
fn matrices_of_low_rank_learn_alone() {
    let (kind, heads, head_dim, intermediate) = SHAPES[0];
    let config = config(kind, heads, head_dim, intermediate);
    let texts = texts(3);
    let expected = expected(&config, Pooling::Mean, &low_rank(&config), &texts);
    assert_eq!(expected.1.len(), 3 * 4);
    let mut model = Packed::new(&config, Pooling::Mean, low_rank(&config), 1 << 30, 2);
    assert_near(&model.learn(&inputs(&texts)), &expected, "low rank");
    let merged = model.transformer.merged(&model.parameters);
    assert_eq!(merged.len(), 6);
    let (place, values) = &merged[0];
    let before = &model.parameters.iter().nth(*place).unwrap().values;
    assert!(apart(values, before) > 0.01);
}

#[test]
fn a_device_gives_the_same_vectors_and_gradients() {
    let pooled = [Pooling::Mean, Pooling::Cls, Pooling::Last, Pooling::Max];
    for ((kind, heads, head_dim, intermediate), pooling) in SHAPES.into_iter().zip(pooled) {
        let config = config(kind, heads, head_dim, intermediate);
        let (texts, all) = (texts(6), parameters(&config, |_| true));
        let mut packed = Packed::new(&config, pooling, all.clone(), 1 << 30, 2);
        let mut on_device = Packed::on_device(&config, pooling, all);
        let what = format!("{kind:?}, {pooling:?}");
        assert_near(&on_device.learn(&inputs(&texts)), &packed.learn(&inputs(&texts)), &what);

        // After a step, which changes all that learns.
        for model in [&mut packed, &mut on_device] {
            let step =
                |parameter: &mut Parameter| parameter.values.iter_mut().for_each(|value| *value *= 0.9);
            model.parameters.iter_mut().for_each(step);
            model.transformer.changed(&model.parameters);
            if let Some(on_device) = &mut model.on_device {
                on_device.changed(&model.parameters).unwrap();
            }
        }
        assert_near(&on_device.learn(&inputs(&texts)), &packed.learn(&inputs(&texts)), &what);
    }
}

#[test]
fn a_device_trains_some_parameters_as_well() {
    let (kind, heads, head_dim, intermediate) = SHAPES[0];
    let config = config(kind, heads, head_dim, intermediate);
    let upper: Learns = |name| name.starts_with("encoder.layer.2") || name.contains("Dense/");
    let texts = texts(7);
    for (what, parameters) in [("low rank", low_rank(&config)), ("above", parameters(&config, upper))] {
        let mut packed = Packed::new(&config, Pooling::Mean, parameters.clone(), 1 << 30, 2);
        let mut on_device = Packed::on_device(&config, Pooling::Mean, parameters);
        assert_near(&on_device.learn(&inputs(&texts)), &packed.learn(&inputs(&texts)), what);
        if what == "above" {
            let states = packed.transformer.below(&packed.parameters, &inputs(&texts)).unwrap();
            let known: Vec<Input<'_>> =
                texts.iter().zip(&states).map(|(ids, states)| Input { ids, states: Some(states) }).collect();
            assert_near(&on_device.learn(&known), &packed.learn(&known), "known states");
        }
    }
}

/// Neither the number of threads, nor what is kept, nor what buffers held before, changes a bit.
#[test]
fn the_same_bits_however_it_is_computed() {
    let (kind, heads, head_dim, intermediate) = SHAPES[0];
    let config = config(kind, heads, head_dim, intermediate);
    // More than a strip.
    let texts: Vec<Vec<u32>> = (0..8).flat_map(texts).collect();
    let run = |kept, threads, twice: bool| {
        let mut model = Packed::new(&config, Pooling::Max, parameters(&config, |_| true), kept, threads);
        if twice {
            model.learn(&inputs(&texts[..5]));
        }
        model.learn(&inputs(&texts))
    };
    let one = run(1 << 30, 1, false);
    let tokens: usize = texts.iter().map(Vec::len).sum();
    let layer = tokens * Strides::new(&config).kept() * size_of::<f32>();
    for (kept, threads, twice) in [(1 << 30, 3, false), (0, 2, false), (layer, 1, true), (2 * layer, 4, true)]
    {
        assert!(run(kept, threads, twice) == one, "{kept} {threads} {twice}");
    }
}

#[test]
fn known_states_below_stand_for_the_layers_below() {
    let (kind, heads, head_dim, intermediate) = SHAPES[0];
    let config = config(kind, heads, head_dim, intermediate);
    let upper: Learns = |name| name.starts_with("encoder.layer.2") || name.contains("Dense/");
    let texts = texts(4);
    let mut model = Packed::new(&config, Pooling::Mean, parameters(&config, upper), 1 << 30, 2);
    let computed = model.learn(&inputs(&texts));
    let states = model.transformer.below(&model.parameters, &inputs(&texts)).unwrap();
    let known: Vec<Input<'_>> =
        texts.iter().zip(&states).map(|(ids, states)| Input { ids, states: Some(states) }).collect();
    let kept = model.learn(&known);
    assert!(apart(&kept.0, &computed.0) < 1e-2 * most(&computed.0));
    for (name, expected) in computed.1.iter().filter(|(name, _)| !name.ends_with("key.bias")) {
        assert!(apart(&kept.1[name], expected) < 2e-2 * most(expected), "{name}");
    }
}

#[test]
fn changed_parameters_are_taken_up() {
    let (kind, heads, head_dim, intermediate) = SHAPES[1];
    let config = config(kind, heads, head_dim, intermediate);
    let texts = texts(5);
    let mut model = Packed::new(&config, Pooling::Mean, parameters(&config, |_| true), 1 << 30, 2);
    model.learn(&inputs(&texts));
    for parameter in model.parameters.iter_mut() {
        parameter.values.iter_mut().enumerate().for_each(|(i, value)| *value += (i % 7) as f32 * 0.01);
    }
    model.transformer.changed(&model.parameters);
    let expected = expected(&config, Pooling::Mean, &model.parameters, &texts);
    assert_near(&model.learn(&inputs(&texts)), &expected, "changed");
}

#[test]
fn texts_that_do_not_fit_are_refused() {
    let (kind, heads, head_dim, intermediate) = SHAPES[2];
    let config = config(kind, heads, head_dim, intermediate);
    let model = Packed::new(&config, Pooling::Mean, parameters(&config, |_| true), 1 << 30, 1);
    let long = vec![3; 299];
    for ids in [&[][..], &[VOCABULARY as u32], &long] {
        let input = Input { ids, states: None };
        assert!(matches!(model.transformer.forward(&model.parameters, &[input], true), Err(Error::Input(_))));
    }
    assert!(Transformer::new(&config, Pooling::Mean, &Parameters::default(), 0, 1).is_err());
    let (pooled, _) = model.transformer.forward(&model.parameters, &[], true).unwrap();
    assert!(pooled.is_empty());
}
