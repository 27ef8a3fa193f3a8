//! Weights: safetensors in and out.
//!
//! A tensor that is read has exactly the shape the configuration implies, and only finite values.
//!
//! A matrix may be stored as bytes (I8) with a scale for each row in a second tensor, its name with `.scales` behind it
//! (F32, one number a row): a quarter of the room, and next to no loss where products are computed in int8 anyway.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::admission::check_tensors;
use super::failed;
use super::fast::Table;
use super::files::{INDEX, ModelFiles, WEIGHTS};
use crate::error::{Error, Result};

/// Tensors by name.
pub(crate) type Weights = BTreeMap<String, Tensor>;

/// Names and shapes that must be there.
pub(crate) type Shapes = Vec<(String, Vec<usize>)>;

/// Prefixes that some tools write before every name: what the part of the model is called that all others share.
const PREFIXES: [&str; 6] = ["bert.", "roberta.", "mpnet.", "distilbert.", "model.", "transformer."];

/// Ending of the name of a matrix's scales.
const SCALES: &str = ".scales";

/// Largest code of a row of bytes.
const CODE_MAX: f32 = 127.0;

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
        let scales = format!("{name}{SCALES}");
        let values = match (view.dtype(), shape) {
            (Dtype::I8, &[rows, width]) if self.find(&scales).is_some() => {
                scaled(view.data(), width, &self.values(&scales, &[rows])?)
            }
            _ => to_f32(file, name, &view)?,
        };
        // All of them, not the first that is not: so it becomes vector code.
        if values.iter().fold(true, |all, v| all & v.is_finite()) {
            Ok(values)
        } else {
            Err(not_finite(file, name))
        }
    }

    /// A tensor of this shape, to be read row by row where it lies in `files`; all values are finite.
    pub(crate) fn table(&self, name: &str, shape: [usize; 2], files: &ModelFiles) -> Result<Table> {
        let (file, view) = self.view(name, &shape)?;
        let scales = format!("{name}{SCALES}");
        let scales = match view.dtype() {
            Dtype::I8 => Some(self.values(&scales, &shape[..1])?),
            _ => None,
        };
        let bytes = files.shared(file).ok_or_else(|| Error::corrupt(file, 0, "the model lacks this file"))?;
        // The view borrows from these bytes.
        let start = view.data().as_ptr().addr().saturating_sub((*bytes).as_ref().as_ptr().addr());
        check_type(file, name, view.dtype())?;
        let table = Table::new(bytes, start, shape, view.dtype(), scales);
        if table.is_finite() { Ok(table) } else { Err(not_finite(file, name)) }
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
    let new = |name: &str| {
        let plain = || PREFIXES.iter().find_map(|prefix| weights.get(name.strip_prefix(prefix)?));
        weights.get(name).or_else(plain)
    };
    for (name, view) in stored.tensors() {
        if name.strip_suffix(SCALES).is_some_and(|of| new(of).is_some()) {
            continue;
        }
        let entry = match new(&name) {
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

/// The file with every matrix as bytes, a quarter of its size.
pub(crate) fn with_codes(file: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let stored = Stored::one(file, bytes)?;
    let names = parse(file, bytes)?;
    let names = names.names().into_iter().filter(|name| !name.ends_with(SCALES));
    let all: Shapes = names.filter_map(|name| Some((name.to_owned(), stored.shape(name)?))).collect();
    let mut tensors = Vec::new();
    for (name, tensor) in &stored.read(&all, str::to_owned)? {
        let Ok((rows, width)) = tensor.dims2() else {
            tensors.push((name.clone(), Entry::from_tensor(tensor)?));
            continue;
        };
        let values = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).map_err(failed)?;
        let (codes, scales) = coded(&values, width);
        tensors
            .push((name.clone(), Entry { dtype: Dtype::I8, shape: vec![rows, width], data: codes.into() }));
        let data = scales.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into();
        tensors.push((format!("{name}{SCALES}"), Entry { dtype: Dtype::F32, shape: vec![rows], data }));
    }
    serialize(file, &tensors)
}

/// The file with every matrix of bytes in f32, as other programs read it; nothing if there is none.
pub(crate) fn without_codes(file: &str, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let stored = Stored::one(file, bytes)?;
    let names = parse(file, bytes)?;
    let coded = names.names().into_iter().filter_map(|name| name.strip_suffix(SCALES));
    let coded: Shapes = coded.filter_map(|name| Some((name.to_owned(), stored.shape(name)?))).collect();
    match coded.is_empty() {
        true => Ok(None),
        false => replace(file, bytes, &stored.read(&coded, str::to_owned)?).map(Some),
    }
}

/// Codes and scales of rows: the largest value of each row is the largest code.
fn coded(values: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut scales) = (Vec::with_capacity(values.len()), Vec::new());
    for row in values.chunks_exact(width.max(1)) {
        let most = row.iter().fold(0f32, |most, value| most.max(value.abs()));
        let steps = if most > f32::MIN_POSITIVE { CODE_MAX / most } else { 0.0 };
        codes.extend(row.iter().map(|value| ((value * steps).round() as i8).to_le_bytes()[0]));
        scales.push(most / CODE_MAX);
    }
    (codes, scales)
}

/// Values of rows of bytes.
fn scaled(codes: &[u8], width: usize, scales: &[f32]) -> Vec<f32> {
    let mut values = vec![0.0; codes.len()];
    let rows = values.chunks_exact_mut(width.max(1)).zip(codes.chunks_exact(width.max(1)));
    for ((row, codes), scale) in rows.zip(scales) {
        row.iter_mut().zip(codes).for_each(|(value, &code)| *value = f32::from(code.cast_signed()) * scale);
    }
    values
}

fn parse<'a>(file: &str, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    check_tensors(file, bytes, bytes.len() as u64)?;
    SafeTensors::deserialize(bytes).map_err(|error| Error::corrupt(file, 0, error.to_string()))
}

fn not_finite(file: &str, name: &str) -> Error {
    Error::corrupt(file, 0, format!("the tensor {name} has values that are not finite"))
}

fn to_f32(file: &str, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>> {
    check_type(file, name, view.dtype())?;
    let mut values = vec![0.0; view.shape().iter().product()];
    match view.dtype() {
        Dtype::I8 => Err(wrong_type(file, name, view.dtype())),
        dtype => decode(dtype, view.data(), &mut values)
            .map(|()| values)
            .ok_or_else(|| wrong_type(file, name, dtype)),
    }
}

/// Refuses a type whose values are not numbers of a model.
fn check_type(file: &str, name: &str, dtype: Dtype) -> Result<()> {
    match decode(dtype, &[], &mut []) {
        Some(()) => Ok(()),
        None => Err(wrong_type(file, name, dtype)),
    }
}

fn wrong_type(file: &str, name: &str, dtype: Dtype) -> Error {
    let what = format!(
        "the tensor {name} is stored as {dtype:?}; F64, F32, F16, BF16, and I8 with {name}{SCALES}, are supported"
    );
    Error::corrupt(file, 0, what)
}

/// Writes the values that `data` holds to `out`, which is as many; nothing for a type that is not supported. Bytes count as
/// whole numbers.
pub(crate) fn decode(dtype: Dtype, data: &[u8], out: &mut [f32]) -> Option<()> {
    fn each<const N: usize>(data: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
        out.iter_mut().zip(data.as_chunks().0).for_each(|(out, &bytes)| *out = value(bytes));
    }
    match dtype {
        Dtype::F32 => each(data, out, f32::from_le_bytes),
        Dtype::F16 => each(data, out, |bytes| half(u16::from_le_bytes(bytes))),
        // bf16 is the upper half of an f32.
        Dtype::BF16 => each(data, out, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)),
        Dtype::F64 => each(data, out, |bytes| f64::from_le_bytes(bytes) as f32),
        Dtype::I8 => each(data, out, |bytes| f32::from(i8::from_le_bytes(bytes))),
        _ => return None,
    }
    Some(())
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

    /// A matrix of bytes, and the numbers that it stands for.
    fn codes() -> (Vec<u8>, Vec<f32>) {
        let matrix =
            Tensor::new(&[[1f32, -2.0, 0.5], [0.0, 0.0, 0.0], [3.0, 1.0, -3.0]], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[5f32], &Device::Cpu).unwrap();
        let weights = Weights::from([("a".to_string(), matrix.clone()), ("b".to_string(), bias)]);
        (
            with_codes("m", &write("m", &weights).unwrap()).unwrap(),
            matrix.flatten_all().unwrap().to_vec1().unwrap(),
        )
    }

    #[test]
    fn a_matrix_of_bytes_is_read_within_half_a_step() {
        let (bytes, exact) = codes();
        let stored = Stored::one("m", &bytes).unwrap();
        let read = stored.values("a", &[3, 3]).unwrap();
        let steps = [2.0 / 127.0, 0.0, 3.0 / 127.0];
        let within = |(at, (a, b)): (usize, (&f32, &f32))| (a - b).abs() <= 0.5001 * steps[at / 3];
        assert!(read.iter().zip(&exact).enumerate().all(within), "{read:?}");
        assert_eq!(stored.values("b", &[1]).unwrap(), [5.0]);
        let plain = without_codes("m", &bytes).unwrap().unwrap();
        assert_eq!(with_codes("m", &plain).unwrap(), bytes, "codes of what codes stand for");
    }

    #[test]
    fn replaced_and_exported_bytes_leave_no_scales() {
        let (bytes, _) = codes();
        let plain = without_codes("m", &bytes).unwrap().unwrap();
        assert_eq!(parse("m", &plain).unwrap().names().len(), 2);
        let values = |bytes: &[u8]| Stored::one("m", bytes).unwrap().values("a", &[3, 3]).unwrap();
        assert_eq!(values(&plain), values(&bytes));
        assert_eq!(without_codes("m", &plain).unwrap(), None);
        let ones = Tensor::ones((3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let replaced = replace("m", &bytes, &Weights::from([("a".to_string(), ones)])).unwrap();
        assert_eq!(values(&replaced), [1.0; 9]);
        assert_eq!(parse("m", &replaced).unwrap().names().len(), 2);
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
