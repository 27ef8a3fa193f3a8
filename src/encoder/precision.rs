//! Whether a model bears int8: how far its vectors turn on a sample of texts.
//!
//! The sample is fixed, so that the same model is always judged in the same way.

use super::{Encoder, ModelFiles};
use crate::error::{Error, Result};
use crate::options::Task;
use crate::types::Precision;

/// Least cosine, over the sample, between a text's vectors in int8 and in f32.
pub const INT8_COSINE_MIN: f64 = 0.995;

/// Texts of several kinds and lengths, such as are stored and searched for. What says nothing is left out: the vectors of
/// an empty text, or of one letter over and over, turn further than those of any of these, and it does not matter.
const SAMPLE: [&str; 18] = [
    "weather",
    "How do I reset my password?",
    "return policy for damaged goods",
    "The museum opens at nine and closes at five, except on Mondays.",
    "invoice 2024-1187: 14 × 3.50 € = 49.00 €, due within 30 days",
    "for (let i = 0; i < rows.length; i++) { total += rows[i].price; }",
    "SELECT name, count(*) FROM visits WHERE year > 2019 GROUP BY name",
    "error: connection refused (os error 111) while opening /var/run/app.sock",
    "Die Katze schläft auf dem warmen Ofen, während draußen der Schnee fällt.",
    "La receta lleva tres huevos, doscientos gramos de harina y una pizca de sal.",
    "Le train de nuit pour Lisbonne part à vingt-deux heures du quai numéro sept.",
    "今日はとても天気がいいので、公園まで散歩に行きました。",
    "Завтра мы поедем на дачу и будем собирать яблоки.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen; it takes place in chloroplasts, and its \
     first products feed nearly every chain of life on land and in the sea.",
    "The board approved a dividend of 0.42 per share. Revenue rose by 8.1 % to 3.6 billion, while operating costs fell; \
     the outlook for the next quarter remains cautious because of currency risks and slower orders from abroad.",
    "!!! ??? ... --- *** ((( ))) [[[ ]]]",
    "two two two two two two two two two two two two two two two two two two two two two two two two",
    "A patient of 54 years came with chest pain that had begun two hours before. Blood pressure was 150 over 95, the pulse \
     regular; the first electrocardiogram showed no elevation. Troponin was measured on arrival and after three hours. \
     Aspirin was given at once, and the pain went away under nitroglycerin. The next morning an angiography found a \
     narrowing of the left anterior artery, which was widened, and a stent was set. He left the hospital on the fourth \
     day, with advice to stop smoking, to walk for half an hour every day, and to come back for a test in six weeks.",
];

impl Encoder {
    /// Loads a model in a precision, or by default in int8 if it bears that, else in f32.
    ///
    /// Besides what [`from_files`](Self::from_files) refuses, int8 is [`Error::Input`] for a model whose vectors turn by
    /// more than [`INT8_COSINE_MIN`] on a sample of texts.
    pub fn with_precision(files: ModelFiles, wish: Option<Precision>) -> Result<Self> {
        #[cfg(feature = "builtin")]
        if files.is_builtin() {
            return Self::from_files(files, wish.unwrap_or(Precision::Int8));
        }
        let exact = Self::from_files(files.clone(), Precision::F32)?;
        // A static model has no products to compute in int8.
        if wish == Some(Precision::F32) || wish.is_none() && exact.layers() == 0 {
            return Ok(exact);
        }
        let judged = Self::from_files(files, Precision::Int8)
            .and_then(|coarse| Ok((least_cosine(&exact, &coarse)?, coarse)));
        match (judged, wish) {
            (Ok((cosine, coarse)), _) if cosine >= INT8_COSINE_MIN => Ok(coarse),
            (_, None) => Ok(exact),
            (Err(error), _) => Err(error),
            (Ok((cosine, _)), _) => Err(Error::Input(format!(
                "the model does not bear int8: on a sample of texts the least cosine to its vectors in f32 is \
                 {cosine:.4}, below {INT8_COSINE_MIN}; use --precision f32"
            ))),
        }
    }
}

/// Least cosine of two encoders' vectors over the sample; 0 if a vector has no direction.
fn least_cosine(left: &Encoder, right: &Encoder) -> Result<f64> {
    let task = Task::default();
    let (a, b) = (left.encode(&SAMPLE, &task)?, right.encode(&SAMPLE, &task)?);
    let dim = left.dim().max(1);
    let cosines = a.chunks_exact(dim).zip(b.chunks_exact(dim)).map(|(a, b)| cosine(a, b));
    Ok(cosines.fold(1.0, f64::min))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if cosine.is_finite() { cosine } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::encoder::files::WEIGHTS;
    use crate::encoder::weights::{self, Weights};

    fn tiny() -> ModelFiles {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoder/tiny-bert");
        ModelFiles::read_dir(folder).unwrap()
    }

    #[test]
    fn a_model_that_bears_int8_is_loaded_so() {
        let exact = Encoder::with_precision(tiny(), Some(Precision::F32)).unwrap();
        let coarse = Encoder::with_precision(tiny(), Some(Precision::Int8)).unwrap();
        assert_ne!(exact.model_id(), coarse.model_id());
        let cosine = least_cosine(&exact, &coarse).unwrap();
        assert!((INT8_COSINE_MIN..0.999_999_9).contains(&cosine), "{cosine}");
        assert_eq!(Encoder::with_precision(tiny(), None).unwrap().precision(), Precision::Int8);
    }

    /// One weight of each output dwarfs the others, so that one step of its scale is all that is left for them.
    #[test]
    fn a_model_that_does_not_bear_int8_is_refused() {
        let mut files = tiny();
        let exact = Encoder::from_files(files.clone(), Precision::F32).unwrap();
        let (weights, _) = exact.read_weights().unwrap();
        let spoilt: Weights = weights
            .into_iter()
            .filter(|(name, tensor)| {
                name.ends_with("query.weight") || name.ends_with("dense.weight") && tensor.rank() == 2
            })
            .map(|(name, tensor)| {
                let shape = tensor.dims().to_vec();
                let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                values.chunks_exact_mut(shape[1]).for_each(|row| row[0] = 300.0);
                (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            })
            .collect();
        let bytes = weights::replace(WEIGHTS, files.required(WEIGHTS).unwrap(), &spoilt).unwrap();
        files.insert(WEIGHTS, bytes);
        let error = Encoder::with_precision(files.clone(), Some(Precision::Int8)).unwrap_err();
        assert!(matches!(&error, Error::Input(what) if what.contains("does not bear int8")), "{error}");
        assert_eq!(Encoder::with_precision(files, None).unwrap().precision(), Precision::F32);
    }
}
