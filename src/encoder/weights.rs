//! Weights: safetensors in and out.
//!
//! A tensor that is read has exactly the shape the configuration implies, and only finite values.

use std::borrow::Cow;
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::failed;
use crate::error::{Error, Result};

/// Tensors by name.
pub(crate) type Weights = BTreeMap<String, Tensor>;

/// Names and shapes that must be there.
pub(crate) type Shapes = Vec<(String, Vec<usize>)>;

/// Prefix that some tools write before every name.
const PREFIX: &str = "bert.";

/// Reads the `expected` tensors as f32; others are left out. Names may carry the prefix `bert.`.
pub(crate) fn read(file: &str, bytes: &[u8], expected: &Shapes) -> Result<Weights> {
    let stored = parse(file, bytes)?;
    let mut weights = Weights::new();
    for (name, shape) in expected {
        let view = stored
            .tensor(name)
            .or_else(|_| stored.tensor(&format!("{PREFIX}{name}")))
            .map_err(|_| Error::corrupt(file, 0, format!("the tensor {name} is missing")))?;
        if view.shape() != shape {
            let what = format!("the tensor {name} has the shape {:?}, not {shape:?}", view.shape());
            return Err(Error::corrupt(file, 0, what));
        }
        let values = to_f32(file, name, &view)?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(Error::corrupt(file, 0, format!("the tensor {name} has values that are not finite")));
        }
        let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).map_err(failed)?;
        weights.insert(name.clone(), tensor);
    }
    Ok(weights)
}

/// The file `bytes` with the tensors of `weights` replaced, in f32; all others stay as they are.
pub(crate) fn replace(file: &str, bytes: &[u8], weights: &Weights) -> Result<Vec<u8>> {
    let stored = parse(file, bytes)?;
    let mut tensors = Vec::new();
    for (name, view) in stored.tensors() {
        let plain = name.strip_prefix(PREFIX).unwrap_or(&name);
        let entry = match weights.get(plain) {
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
        other => {
            let what = format!("the tensor {name} is stored as {other:?}; F32, F16 and BF16 are supported");
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
