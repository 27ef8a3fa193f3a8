//! The parameters of the dense layers behind the transformer, in and out of files; and the last normalisation.

use super::config::{DenseConfig, ModelConfig};
use super::files::{ModelFiles, WEIGHTS};
use super::weights::{self, Weights};
use crate::error::Result;

/// Norm below which a vector is left as it is: a zero vector has no direction.
const NORM_MIN: f64 = 1e-12;

/// Scales each row to length 1; a zero row stays zero.
pub(crate) fn normalize_rows(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_mut(dim) {
        let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt().max(NORM_MIN);
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
}

/// The parameters of all dense layers, by `FOLDER/linear.weight` and `FOLDER/linear.bias`.
pub(crate) fn read_dense(files: &ModelFiles, config: &ModelConfig) -> Result<Weights> {
    let mut all = Weights::new();
    for dense in &config.dense {
        let mut shapes = vec![("linear.weight".to_string(), vec![dense.outputs, dense.inputs])];
        if dense.bias {
            shapes.push(("linear.bias".to_string(), vec![dense.outputs]));
        }
        let file = weights_file(dense);
        let read = weights::read(&file, files.required(&file)?, &shapes)?;
        all.extend(read.into_iter().map(|(name, tensor)| (format!("{}/{name}", dense.path), tensor)));
    }
    Ok(all)
}

/// The files of the dense layers with the parameters in `all`.
pub(crate) fn write_dense(files: &mut ModelFiles, config: &ModelConfig, all: &Weights) -> Result<()> {
    for dense in &config.dense {
        let mut weights = Weights::new();
        for kind in ["weight", "bias"] {
            if let Some(tensor) = all.get(&parameter(dense, kind)) {
                weights.insert(format!("linear.{kind}"), tensor.clone());
            }
        }
        let file = weights_file(dense);
        let bytes = weights::write(&file, &weights)?;
        files.insert(file, bytes);
    }
    Ok(())
}

pub(crate) fn parameter(dense: &DenseConfig, kind: &str) -> String {
    format!("{}/linear.{kind}", dense.path)
}

fn weights_file(dense: &DenseConfig) -> String {
    format!("{}/{WEIGHTS}", dense.path)
}
