//! Parameters on their way from a model's files into packed form.

use std::collections::BTreeMap;

use super::layer::Norm;
use super::linear::Linear;
use super::table::Table;
use crate::encoder::files::ModelFiles;
use crate::encoder::weights::{Shapes, Stored};
use crate::error::{Error, Result};
use crate::types::Precision;

/// A transformer's parameters, in its files.
pub(super) struct Source<'a> {
    files: &'a ModelFiles,
    stored: Stored<'a>,
    shapes: BTreeMap<String, Vec<usize>>,
    /// What a parameter is called in files.
    called: Box<dyn Fn(&str) -> String>,
    pub(super) precision: Precision,
    pub(super) epsilon: f32,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        files: &'a ModelFiles,
        shapes: Shapes,
        called: impl Fn(&str) -> String + 'static,
        precision: Precision,
        epsilon: f64,
    ) -> Result<Self> {
        Ok(Self {
            files,
            stored: Stored::transformer(files)?,
            shapes: shapes.into_iter().collect(),
            called: Box::new(called),
            precision,
            epsilon: epsilon as f32,
        })
    }

    /// Values of a parameter.
    pub(super) fn take(&self, name: &str) -> Result<Vec<f32>> {
        self.stored.values(&(self.called)(name), self.shape(name)?)
    }

    /// A parameter that is read row by row.
    pub(super) fn table(&self, name: &str) -> Result<Table> {
        match *self.shape(name)? {
            [rows, width] => self.stored.table(&(self.called)(name), [rows, width], self.files),
            _ => Err(Error::input(format!("the parameter {name} is no table"))),
        }
    }

    pub(super) fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm {
            weight: self.take(&format!("{name}.weight"))?,
            bias: self.take(&format!("{name}.bias"))?,
            epsilon: self.epsilon,
        })
    }

    pub(super) fn linear(&self, name: &str) -> Result<Linear> {
        let weights = self.take(&format!("{name}.weight"))?;
        let bias = self.take(&format!("{name}.bias"))?;
        Ok(Linear::new(&weights, &bias, self.precision))
    }

    fn shape(&self, name: &str) -> Result<&[usize]> {
        let shape = self.shapes.get(name).map(Vec::as_slice);
        shape.ok_or_else(|| Error::input(format!("the parameter {name} is missing")))
    }
}
