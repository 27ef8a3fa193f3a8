//! Weights: safetensors in and out.
//!
//! A tensor that is read has exactly the shape the configuration implies, and only finite values.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::admission::check_tensors;
use super::failed;
use super::files::{INDEX, ModelFiles, WEIGHTS};
use crate::error::{Error, Result};

/// Tensors by name.
pub(crate) type Weights = BTreeMap<String, Tensor>;

/// Names and shapes that must be there.
pub(crate) type Shapes = Vec<(String, Vec<usize>)>;

/// Prefixes that some tools write before every name: what the part of the model is called that all others share.
const PREFIXES: [&str; 6] = ["bert.", "roberta.", "mpnet.", "distilbert.", "model.", "transformer."];

/// Files of tensors, one or several, that make one model.
pub(crate) struct Stored<'a> {
    /// By path.
    files: Vec<(String, SafeTensors<'a>)>,
}

impl<'a> Stored<'a> {
    /// Tensors of one file.
    pub(crate) fn one(file: &str, bytes: &'a [u8]) -> Result<Self> {
        Ok(Self { files: vec![(file.to_owned(), parse(file, bytes)?)] })
    }

    /// Tensors of a transformer: in one file, or in those that an index names.
    pub(crate) fn transformer(files: &'a ModelFiles) -> Result<Self> {
        let names = files_of(files)?;
        let files = names.into_iter().map(|name| {
            let stored = parse(&name, files.required(&name)?)?;
            Ok((name, stored))
        });
        Ok(Self { files: files.collect::<Result<_>>()? })
    }

    /// A tensor, and the path of its file.
    fn find(&self, name: &str) -> Option<(&str, TensorView<'_>)> {
        let of = |name: &str| {
            self.files.iter().find_map(|(file, all)| Some((file.as_str(), all.tensor(name).ok()?)))
        };
        of(name).or_else(|| PREFIXES.iter().find_map(|prefix| of(&format!("{prefix}{name}"))))
    }

    /// The shape of a tensor, if it is there.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.files.iter().find_map(|(_, all)| Some(all.tensor(name).ok()?.shape().to_vec()))
    }

    /// A tensor that must have this shape.
    fn view(&self, name: &str, shape: &[usize]) -> Result<(&str, TensorView<'_>)> {
        let first = self.files.first().map_or("", |(file, _)| file.as_str());
        let (file, view) = self
            .find(name)
            .ok_or_else(|| Error::corrupt(first, 0, format!("the tensor {name} is missing")))?;
        if view.shape() != shape {
            let what = format!("the tensor {name} has the shape {:?}, not {shape:?}", view.shape());
            return Err(Error::corrupt(file, 0, what));
        }
        Ok((file, view))
    }

    /// Values of a tensor of this shape, as f32; all are finite.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, view) = self.view(name, shape)?;
        let values = to_f32(file, name, &view)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::corrupt(file, 0, format!("the tensor {name} has values that are not finite")));
        }
        Ok(values)
    }

    /// Values of a tensor of this shape that is stored as bytes, if it is.
    pub(crate) fn codes(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<i8>>> {
        let (_, view) = self.view(name, shape)?;
        let codes = || view.data().iter().map(|&byte| i8::from_le_bytes([byte])).collect();
        Ok((view.dtype() == Dtype::I8).then(codes))
    }

    /// Values of a tensor of whole numbers, each below `end`.
    pub(crate) fn numbers(&self, name: &str, shape: &[usize], end: usize) -> Result<Vec<u32>> {
        let (file, view) = self.view(name, shape)?;
        let data = view.data();
        let numbers: Option<Vec<u32>> = match view.dtype() {
            Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b).try_into().ok()).collect(),
            Dtype::I32 => data.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).try_into().ok()).collect(),
            _ => None,
        };
        let within = numbers.filter(|all| all.iter().all(|&n| (n as usize) < end));
        within.ok_or_else(|| Error::corrupt(file, 0, format!("{name} are not all whole numbers below {end}")))
    }

    /// The `expected` tensors as f32; others are left out. `called`: what a name is in the files, before which there may
    /// be a usual prefix.
    pub(crate) fn read(&self, expected: &Shapes, called: impl Fn(&str) -> String) -> Result<Weights> {
        let mut weights = Weights::new();
        for (name, shape) in expected {
            let values = self.values(&called(name), shape)?;
            let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).map_err(failed)?;
            weights.insert(name.clone(), tensor);
        }
        Ok(weights)
    }
}

/// Paths of the files that hold a transformer.
pub(crate) fn files_of(files: &ModelFiles) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let Some(bytes) = files.get(INDEX).filter(|_| files.get(WEIGHTS).is_none()) else {
        return Ok(vec![WEIGHTS.to_owned()]);
    };
    let index: Index = super::config::parse(INDEX, bytes)?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    if names.is_empty() {
        return Err(Error::corrupt(INDEX, 0, "it names no file"));
    }
    Ok(names.into_iter().collect())
}

/// Reads the `expected` tensors of one file as f32; others are left out.
pub(crate) fn read(file: &str, bytes: &[u8], expected: &Shapes) -> Result<Weights> {
    Stored::one(file, bytes)?.read(expected, str::to_owned)
}

/// The file `bytes` with the tensors of `weights` replaced, in f32, by their names in files; all others stay as they are.
pub(crate) fn replace(file: &str, bytes: &[u8], weights: &Weights) -> Result<Vec<u8>> {
    let stored = parse(file, bytes)?;
    let mut tensors = Vec::new();
    for (name, view) in stored.tensors() {
        let plain = PREFIXES.iter().find_map(|prefix| weights.get(name.strip_prefix(prefix)?));
        let entry = match weights.get(&name).or(plain) {
            Some(tensor) => Entry::from_tensor(tensor)?,
            None => Entry {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                data: Cow::Owned(view.data().to_vec()),
            },
        };
        tensors.push((name, entry));
    }
    serialize(file, &tensors)
}

/// A file of the tensors of `weights`, in f32.
pub(crate) fn write(file: &str, weights: &Weights) -> Result<Vec<u8>> {
    let tensors: Result<Vec<_>> =
        weights.iter().map(|(name, tensor)| Ok((name.clone(), Entry::from_tensor(tensor)?))).collect();
    serialize(file, &tensors?)
}

fn parse<'a>(file: &str, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    check_tensors(file, bytes, bytes.len() as u64)?;
    SafeTensors::deserialize(bytes).map_err(|error| Error::corrupt(file, 0, error.to_string()))
}

fn to_f32(file: &str, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|&b| half(u16::from_le_bytes(b))).collect(),
        // bf16 is the upper half of an f32.
        Dtype::BF16 => data
            .as_chunks()
            .0
            .iter()
            .map(|&b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
            .collect(),
        Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
        other => {
            let what =
                format!("the tensor {name} is stored as {other:?}; F64, F32, F16 and BF16 are supported");
            return Err(Error::corrupt(file, 0, what));
        }
    };
    Ok(values)
}

/// An IEEE 754 half as f32.
fn half(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f32::from(bits & 0x3ff) / 1024.0;
    sign * match exponent {
        0 => fraction * 2f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction) * 2f32.powi(exponent - 15),
    }
}

/// One tensor on its way into a file.
struct Entry<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl Entry<'_> {
    fn from_tensor(tensor: &Tensor) -> Result<Self> {
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
        Ok(Self {
            dtype: Dtype::F32,
            shape: tensor.dims().to_vec(),
            data: Cow::Owned(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        })
    }
}

fn serialize(file: &str, tensors: &[(String, Entry<'_>)]) -> Result<Vec<u8>> {
    let views: std::result::Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, entry)| {
            TensorView::new(entry.dtype, entry.shape.clone(), &entry.data).map(|view| (name, view))
        })
        .collect();
    views
        .and_then(|views| {
            let metadata = [("format".to_string(), "pt".to_string())].into();
            safetensors::serialize(views, Some(metadata))
        })
        .map_err(|error| Error::input(format!("{file} cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let view = TensorView::new(dtype, shape.to_vec(), data).unwrap();
        safetensors::serialize([("bert.a", view)], None).unwrap()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn expect(shape: &[usize]) -> Shapes {
        vec![("a".into(), shape.to_vec())]
    }

    fn values(weights: &Weights) -> Vec<f32> {
        weights["a"].flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn each_stored_type_is_read_with_or_without_prefix() {
        let f32s = one(Dtype::F32, &[2], &floats(&[1.5, -2.0]));
        assert_eq!(values(&read("m", &f32s, &expect(&[2])).unwrap()), [1.5, -2.0]);
        // 0x3e00 = 1.5, 0xc000 = -2, 0x0001 = 2^-24 in f16 (IEEE 754 table).
        let f16s = one(Dtype::F16, &[3], &[0x00, 0x3e, 0x00, 0xc0, 0x01, 0x00]);
        assert_eq!(values(&read("m", &f16s, &expect(&[3])).unwrap()), [1.5, -2.0, 2f32.powi(-24)]);
        let bf16s = one(Dtype::BF16, &[2], &[0xc0, 0x3f, 0x00, 0xc0]);
        assert_eq!(values(&read("m", &bf16s, &expect(&[2])).unwrap()), [1.5, -2.0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = one(Dtype::F32, &[2], &floats(&[1.0, 2.0]));
        let bad_values = one(Dtype::F32, &[2], &floats(&[1.0, f32::NAN]));
        let infinite = one(Dtype::F16, &[1], &[0x00, 0x7c]);
        let integers = one(Dtype::I64, &[1], &[0; 8]);
        let missing = vec![("b".to_string(), vec![2])];
        for (bytes, shapes, word) in [
            (&good, expect(&[1, 2]), "shape"),
            (&good, missing, "b is missing"),
            (&bad_values, expect(&[2]), "finite"),
            (&infinite, expect(&[1]), "finite"),
            (&integers, expect(&[1]), "I64"),
        ] {
            let error = read("m", bytes, &shapes).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { .. }) && error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_corrupt() {
        let good = one(Dtype::F32, &[2], &floats(&[1.0, 2.0]));
        for length in 0..good.len() {
            let error = read("m", &good[..length], &expect(&[2])).unwrap_err();
            assert!(matches!(&error, Error::Corrupt { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn replacing_keeps_names_and_other_tensors() {
        let first = TensorView::new(Dtype::F32, vec![2], &[0; 8]).unwrap();
        let other = TensorView::new(Dtype::I64, vec![1], &[7; 8]).unwrap();
        let old = safetensors::serialize([("bert.a", first), ("position_ids", other)], None).unwrap();
        let new = Tensor::new(&[3f32, 4.0], &Device::Cpu).unwrap();
        let bytes = replace("m", &old, &Weights::from([("a".to_string(), new)])).unwrap();
        assert_eq!(values(&read("m", &bytes, &expect(&[2])).unwrap()), [3.0, 4.0]);
        assert_eq!(parse("m", &bytes).unwrap().tensor("position_ids").unwrap().data(), [7; 8]);
    }
}
