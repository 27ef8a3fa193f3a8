//! Linear maps after a model, before the last normalisation: one for everything, or another one for queries.
//!
//! File `adapter.safetensors`: tensor `adapter` maps all texts; where there is a tensor `query_adapter`, it maps queries in
//! place of the other. Both are dim × dim, outputs × inputs. A map of queries alone leaves documents, and so all that is
//! stored, as they are.

use candle_core::{Device, Tensor};

use super::failed;
use super::files::{ADAPTER, ModelFiles};
use super::prompts::Role;
use super::weights::{self, Stored, Weights};
use crate::error::{Error, Result};

/// Name of the tensor of all texts.
const ALL: &str = "adapter";
/// Name of the tensor of queries.
const QUERIES: &str = "query_adapter";

/// The maps of a model.
#[derive(Default)]
pub(crate) struct Adapters {
    all: Option<Adapter>,
    queries: Option<Adapter>,
}

/// A map as a tensor and as numbers.
struct Adapter {
    tensor: Tensor,
    values: Vec<f32>,
}

impl Adapter {
    fn new(tensor: Tensor) -> Result<Self> {
        let values = tensor.flatten_all().and_then(|t| t.to_vec1()).map_err(failed)?;
        Ok(Self { tensor, values })
    }
}

impl Adapters {
    /// Those among the files.
    pub fn read(files: &ModelFiles, dim: usize) -> Result<Self> {
        let Some(bytes) = files.get(ADAPTER) else { return Ok(Self::default()) };
        let stored = Stored::one(ADAPTER, bytes)?;
        // Without that of queries the other must be there.
        let has = |name| stored.shape(name).is_some();
        let names = [ALL, QUERIES].map(|name| has(name) || (name == ALL && !has(QUERIES)));
        let read = |name: &str| {
            let mut tensors = stored.read(&vec![(name.to_owned(), vec![dim, dim])], str::to_owned)?;
            tensors.remove(name).map(Adapter::new).transpose()
        };
        let [all, queries] = [(ALL, names[0]), (QUERIES, names[1])]
            .map(|(name, there)| if there { read(name) } else { Ok(None) });
        Ok(Self { all: all?, queries: queries? })
    }

    /// The file of them.
    pub fn to_file(&self) -> Result<Vec<u8>> {
        let named = [(ALL, &self.all), (QUERIES, &self.queries)];
        let tensors =
            named.into_iter().filter_map(|(name, map)| Some((name.to_owned(), map.as_ref()?.tensor.clone())));
        weights::write(ADAPTER, &tensors.collect::<Weights>())
    }

    /// The map of a role's texts, dim × dim.
    pub fn of(&self, role: Role) -> Option<&[f32]> {
        self.for_role(role).map(|adapter| adapter.values.as_slice())
    }

    /// The same as a tensor.
    pub fn tensor(&self, role: Role) -> Option<&Tensor> {
        self.for_role(role).map(|adapter| &adapter.tensor)
    }

    fn for_role(&self, role: Role) -> Option<&Adapter> {
        let queries = self.queries.as_ref().filter(|_| role == Role::Query);
        queries.or(self.all.as_ref())
    }

    /// Whether queries have a map of their own.
    pub fn sided(&self) -> bool {
        self.queries.is_some()
    }

    /// Followed by another map of all texts.
    pub fn then(&self, map: &[f32], dim: usize) -> Result<Self> {
        let queries = match self.sided() {
            true => Some(self.followed(Role::Query, map, dim)?),
            false => None,
        };
        Ok(Self { all: Some(self.followed(Role::Document, map, dim)?), queries })
    }

    /// With another map of queries to follow theirs.
    pub fn then_of_queries(&self, map: &[f32], dim: usize) -> Result<Self> {
        let all = self.all.as_ref().map(|all| Adapter::new(all.tensor.clone())).transpose()?;
        Ok(Self { all, queries: Some(self.followed(Role::Query, map, dim)?) })
    }

    fn followed(&self, role: Role, map: &[f32], dim: usize) -> Result<Adapter> {
        if map.len() != dim * dim || map.iter().any(|value| !value.is_finite()) {
            return Err(Error::input(format!("an adapter for this model has {dim} × {dim} finite values")));
        }
        let map = Tensor::from_slice(map, (dim, dim), &Device::Cpu).map_err(failed)?;
        Adapter::new(match self.tensor(role) {
            Some(before) => map.matmul(before).map_err(failed)?,
            None => map,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_follow_each_other_on_each_side_and_come_back_from_the_file() {
        let twice = [2.0, 0.0, 0.0, 2.0];
        let swap = [0.0, 1.0, 1.0, 0.0];
        let stretch = [3.0, 0.0, 0.0, 1.0];
        let none = Adapters::default();
        assert!(none.of(Role::Query).is_none() && !none.sided());
        let sided = none.then(&twice, 2).unwrap().then_of_queries(&swap, 2).unwrap();
        assert_eq!(sided.of(Role::Document), Some(&twice[..]));
        assert_eq!(sided.of(Role::Query), Some(&[0.0, 2.0, 2.0, 0.0][..]));
        let both = sided.then(&stretch, 2).unwrap();
        assert_eq!(both.of(Role::Document), Some(&[6.0, 0.0, 0.0, 2.0][..]));
        assert_eq!(both.of(Role::Query), Some(&[0.0, 6.0, 2.0, 0.0][..]));
        let queries_only = none.then_of_queries(&swap, 2).unwrap();
        assert!(queries_only.of(Role::Document).is_none());
        for adapters in [both, queries_only] {
            let mut files = ModelFiles::default();
            files.insert(ADAPTER, adapters.to_file().unwrap());
            let read = Adapters::read(&files, 2).unwrap();
            for role in [Role::Query, Role::Document] {
                assert_eq!(read.of(role), adapters.of(role));
            }
        }
        assert!(none.then(&[1.0, f32::NAN, 0.0, 0.0], 2).is_err() && none.then(&[1.0], 2).is_err());
    }
}
