//! The state of a training run as bytes, so that it goes on, after a stop, as if there had been none.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `EMBDBTRN` |
//! | 4 | version, [`VERSION`] |
//! | 4 | zero |
//! | 8 | xxh3 of all that follows |
//! | 8 | identity of the run |
//! | 8 | nanoseconds used |
//! | 8 | steps done |
//! | 40 each | of each step: loss, rate, norm, seconds (f64), rows (u64) |
//! | 4 | parameters that learn |
//! | each | length of the name (u32), the name; values (u64); 1 for a table, else 0 (u8) |
//! | | of a table: rows used (u32), the number of each (u32), ascending |
//! | | values, means of gradients, means of their squares (f32): all, or those of the rows used |
//!
//! All numbers are little-endian. Rows of a table that no text has used are those of the model that the run began with,
//! which its identity stands for; so are parameters that do not learn. The order of rows, and with it the position of
//! the random numbers, follows from the seed and the number of steps.

use std::time::Duration;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::fit::{Schedule, StepRecord};
use super::optimiser::{AdamW, Moments};
use crate::encoder::{Parameter, Parameters};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"EMBDBTRN";
/// Version of these bytes.
const VERSION: u32 = 1;
/// Where the checksum ends and what it covers begins.
const BODY: usize = 24;
/// Stands for the file in errors; the caller knows its name.
const FILE: &str = "the checkpoint of a training run";

/// What is saved beside the parameters.
pub(super) struct State<'a> {
    pub run: u64,
    pub time: Duration,
    pub records: &'a [StepRecord],
    pub optimiser: &'a AdamW,
}

/// What is read beside parameters and optimiser.
#[derive(Debug)]
pub(super) struct Saved {
    pub time: Duration,
    pub records: Vec<StepRecord>,
}

/// Identity of a run: of what the caller knows, and of how it goes over its rows.
pub(super) fn identity(run: u64, schedule: &Schedule) -> u64 {
    let mut hash = Xxh3::new();
    let sizes = [schedule.rows, schedule.epochs, schedule.batch, schedule.accumulate, schedule.at_once];
    let all = sizes.map(|size| size as u64).into_iter().chain([run, schedule.seed]);
    all.for_each(|number| hash.update(&number.to_le_bytes()));
    hash.digest()
}

/// The refusal of another run's state.
pub(super) fn other_run() -> Error {
    Error::input(
        "the checkpoint is of another run: pairs, model and options must be those that it was made with; begin anew",
    )
}

/// A run's state as bytes.
pub(super) fn write(state: &State<'_>, parameters: &Parameters) -> Vec<u8> {
    let learning = || parameters.learning().zip(&state.optimiser.moments);
    let most: usize = learning().map(|(p, _)| 12 * p.values.len() + 8 * p.shape[0] + p.name.len() + 64).sum();
    let mut out = Vec::with_capacity(most.min(1 << 32) + 128 + 40 * state.records.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&state.run.to_le_bytes());
    out.extend_from_slice(&(state.time.as_nanos() as u64).to_le_bytes());
    out.extend_from_slice(&(state.records.len() as u64).to_le_bytes());
    for record in state.records {
        for value in [record.loss, record.rate, record.norm, record.seconds] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out.extend_from_slice(&(record.rows as u64).to_le_bytes());
    }
    out.extend_from_slice(&(state.optimiser.moments.len() as u32).to_le_bytes());
    learning().for_each(|(parameter, moments)| write_parameter(&mut out, parameter, moments));
    let sum = xxh3_64(out.get(BODY..).unwrap_or_default()).to_le_bytes();
    if let Some(place) = out.get_mut(BODY - 8..BODY) {
        place.copy_from_slice(&sum);
    }
    out
}

fn write_parameter(out: &mut Vec<u8>, parameter: &Parameter, moments: &Moments) {
    out.extend_from_slice(&(parameter.name.len() as u32).to_le_bytes());
    out.extend_from_slice(parameter.name.as_bytes());
    out.extend_from_slice(&(parameter.values.len() as u64).to_le_bytes());
    let table = !moments.used.is_empty();
    out.push(u8::from(table));
    let used: Vec<usize> = (0..moments.used.len()).filter(|&row| moments.used[row]).collect();
    if table {
        out.extend_from_slice(&(used.len() as u32).to_le_bytes());
        used.iter().for_each(|&row| out.extend_from_slice(&(row as u32).to_le_bytes()));
    }
    for values in [&parameter.values, &moments.mean, &moments.square] {
        let width = values.len() / moments.used.len().max(1);
        match table {
            false => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            true => used.iter().for_each(|&row| {
                let row = values.get(row * width..(row + 1) * width).unwrap_or_default();
                out.extend(row.iter().flat_map(|value| value.to_le_bytes()));
            }),
        }
    }
}

/// Takes up a run's state: parameters and optimiser become what they were.
///
/// # Errors
/// [`Error::Corrupt`] for bytes that are damaged, [`Error::TooNew`] for those of a newer program, [`Error::Input`] for
/// those of another run. Nothing has changed then.
pub(super) fn read(
    bytes: &[u8],
    run: u64,
    parameters: &mut Parameters,
    optimiser: &mut AdamW,
) -> Result<Saved> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(8)? != MAGIC {
        return Err(Error::corrupt(FILE, 0, "it does not begin as one"));
    }
    let version = reader.u32()?;
    if version > VERSION {
        return Err(Error::TooNew {
            file: FILE.into(),
            needs: format!("with version {version} of checkpoints"),
        });
    }
    if version == 0 || reader.u32()? != 0 {
        return Err(Error::corrupt(FILE, 8, format!("version {version}")));
    }
    if reader.u64()? != xxh3_64(bytes.get(BODY..).unwrap_or_default()) {
        return Err(Error::corrupt(FILE, BODY as u64 - 8, "the checksum is wrong"));
    }
    if reader.u64()? != run {
        return Err(other_run());
    }
    let time = Duration::from_nanos(reader.u64()?);
    let records = reader.records()?;
    let (mut values, mut moments) = (Vec::new(), Vec::new());
    if reader.u32()? as usize != optimiser.moments.len() {
        return Err(other_run());
    }
    for parameter in parameters.learning() {
        let (own, state) = reader.parameter(parameter)?;
        values.push(own);
        moments.push(state);
    }
    if reader.at != bytes.len() {
        return Err(Error::corrupt(FILE, reader.at as u64, "there is more than there should be"));
    }
    let learning = parameters.iter_mut().filter(|parameter| parameter.learns());
    learning.zip(values).for_each(|(parameter, values)| parameter.values = values);
    optimiser.moments = moments;
    optimiser.steps = u32::try_from(records.len()).unwrap_or(u32::MAX);
    Ok(Saved { time, records })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| Error::corrupt(FILE, self.at as u64, "it ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn f64(&mut self) -> Result<f64> {
        self.array().map(f64::from_le_bytes)
    }

    fn records(&mut self) -> Result<Vec<StepRecord>> {
        let count = self.u64()?;
        let left = (self.bytes.len() - self.at) as u64;
        if count > left / 40 {
            return Err(Error::corrupt(FILE, self.at as u64 - 8, format!("{count} steps have no room")));
        }
        let record = |_| {
            let (loss, rate, norm, seconds) = (self.f64()?, self.f64()?, self.f64()?, self.f64()?);
            Ok(StepRecord { loss, rate, norm, rows: self.u64()? as usize, seconds })
        };
        (0..count).map(record).collect()
    }

    /// Values and moments of a parameter.
    fn parameter(&mut self, parameter: &Parameter) -> Result<(Vec<f32>, Moments)> {
        let length = self.u32()? as usize;
        let same = self.take(length)? == parameter.name.as_bytes();
        let same = same && self.u64()? == parameter.values.len() as u64;
        let mut moments = Moments::of(parameter);
        let table = !moments.used.is_empty();
        if !same || self.array::<1>()? != [u8::from(table)] {
            return Err(other_run());
        }
        let mut values = parameter.values.clone();
        if !table {
            for target in [&mut values, &mut moments.mean, &mut moments.square] {
                self.floats(target)?;
            }
            return Ok((values, moments));
        }
        let rows = self.rows(&mut moments.used)?;
        for target in [&mut values, &mut moments.mean, &mut moments.square] {
            let width = target.len() / moments.used.len();
            for row in &rows {
                self.floats(&mut target[row * width..(row + 1) * width])?;
            }
        }
        Ok((values, moments))
    }

    /// The numbers of a table's rows in use.
    fn rows(&mut self, used: &mut [bool]) -> Result<Vec<usize>> {
        let mut rows = Vec::new();
        for _ in 0..self.u32()? {
            let row = self.u32()? as usize;
            match used.get_mut(row) {
                Some(used) if rows.last().is_none_or(|&last| last < row) => *used = true,
                _ => {
                    return Err(Error::corrupt(
                        FILE,
                        self.at as u64 - 4,
                        format!("row {row} is out of order"),
                    ));
                }
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn floats(&mut self, target: &mut [f32]) -> Result<()> {
        let start = self.at as u64;
        let bytes = self.take(size_of_val(target))?;
        for (value, bytes) in target.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        match target.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(Error::corrupt(FILE, start, "a value is not finite")),
        }
    }
}

#[cfg(test)]
mod tests;
