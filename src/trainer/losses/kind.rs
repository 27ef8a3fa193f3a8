//! The losses by name, and which fits which data.

use std::fmt;
use std::str::FromStr;

use super::{
    BatchHard, CoSent, Contrastive, CosineScores, Distance, Distillation, Loss, Margin, MarginMse,
    Matryoshka, OnlineContrastive, RankingLoss, Similarity, Triplet,
};
use crate::error::{Error, Result};
use crate::trainer::data::Shape;

/// A loss, as `--loss` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// `mnrl`: [`RankingLoss`].
    Ranking,
    /// `mnrl-symmetric`: [`RankingLoss::symmetric`].
    Symmetric,
    /// `cached-mnrl`: [`RankingLoss`] over batches beyond what memory holds at once.
    CachedRanking,
    /// `gist`: [`RankingLoss::guided`].
    Guided,
    /// `cached-gist`: [`RankingLoss::guided`] over batches beyond what memory holds at once.
    CachedGuided,
    /// `triplet`: [`Triplet`].
    Triplet,
    /// `batch-hard`: [`BatchHard`].
    BatchHard,
    /// `batch-hard-soft`: [`BatchHard::soft`].
    BatchHardSoft,
    /// `contrastive`: [`Contrastive`].
    Contrastive,
    /// `online-contrastive`: [`OnlineContrastive`].
    OnlineContrastive,
    /// `cosine`: [`CosineScores`].
    Cosine,
    /// `cosent`: [`CoSent`].
    CoSent,
    /// `margin-mse`: [`MarginMse`].
    MarginMse,
    /// `distil-scores`: [`Distillation`].
    Distillation,
}

/// What may be set of a loss; what is not given is as the loss has it by default.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LossOptions {
    /// Factor on the cosines of `mnrl`, `gist`, `cosent` and their kin, or of the student in `distil-scores`.
    pub scale: Option<f32>,
    /// Margin of `triplet`, `batch-hard`, `contrastive`, `online-contrastive`.
    pub margin: Option<f32>,
    /// Distance of the same.
    pub distance: Option<Distance>,
    /// Margin of the guide of `gist`.
    pub guide: Option<Margin>,
}

/// Names, in the order in which messages list them, with the shapes each learns from.
const KINDS: [(LossKind, &str, &[Shape]); 14] = {
    use LossKind as K;
    use Shape::{Classes, Pairs, Scored, Triplets};
    [
        (K::Ranking, "mnrl", &[Pairs, Triplets, Classes]),
        (K::Symmetric, "mnrl-symmetric", &[Pairs, Triplets, Classes]),
        (K::CachedRanking, "cached-mnrl", &[Pairs, Triplets, Classes]),
        (K::Guided, "gist", &[Pairs, Triplets, Classes]),
        (K::CachedGuided, "cached-gist", &[Pairs, Triplets, Classes]),
        (K::Triplet, "triplet", &[Triplets]),
        (K::BatchHard, "batch-hard", &[Classes]),
        (K::BatchHardSoft, "batch-hard-soft", &[Classes]),
        (K::Contrastive, "contrastive", &[Scored]),
        (K::OnlineContrastive, "online-contrastive", &[Scored]),
        (K::Cosine, "cosine", &[Scored]),
        (K::CoSent, "cosent", &[Scored]),
        (K::MarginMse, "margin-mse", &[Triplets]),
        (K::Distillation, "distil-scores", &[Triplets]),
    ]
};

/// Scale of the cosines that a teacher's scores are compared with: temperature .05.
const DISTILLATION_SCALE: f32 = super::SCALE;
/// Margin of cosine distances between rows of length 1.
const COSINE_MARGIN: f32 = 0.2;

impl LossKind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS.iter().map(|kind| kind.0)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|kind| kind.0 == self).map_or("", |kind| kind.1)
    }

    /// The shapes of data that it learns from.
    pub fn shapes(self) -> &'static [Shape] {
        KINDS.iter().find(|kind| kind.0 == self).map_or(&[], |kind| kind.2)
    }

    /// What a shape of data is learnt by unless something else is named: what gained most as an adapter on the built-in
    /// encoder (`tests/real_losses.rs`). Intents of a bank, NDCG@10 of others of the class at 256 dimensions: .824 before,
    /// .869 by ranking within classes, .820 by batch-hard triplets. Similar sentences, rank correlation on the part of the
    /// training pairs that was held out: .718 before, .752 by cosines, .728 by CoSENT.
    pub fn of_shape(shape: Shape) -> Self {
        match shape {
            Shape::Pairs | Shape::Triplets | Shape::Classes => Self::Ranking,
            Shape::Scored => Self::Cosine,
        }
    }

    /// Refuses data of a shape that it cannot learn from.
    ///
    /// # Errors
    /// [`Error::Input`] with the losses that can.
    pub fn check(self, shape: Shape) -> Result<()> {
        if self.shapes().contains(&shape) {
            return Ok(());
        }
        let can: Vec<&str> =
            Self::all().filter(|kind| kind.shapes().contains(&shape)).map(Self::name).collect();
        Err(Error::input(format!(
            "the loss {self} does not learn from {shape}; these do: {}",
            can.join(", ")
        )))
    }

    /// Whether a batch is to be embedded in portions, and its gradient cached.
    pub fn cached(self) -> bool {
        matches!(self, Self::CachedRanking | Self::CachedGuided)
    }

    /// Whether it needs a guide's vectors.
    pub fn guided(self) -> bool {
        matches!(self, Self::Guided | Self::CachedGuided)
    }

    /// Whether its examples are single texts with a class.
    pub fn by_class(self) -> bool {
        matches!(self, Self::BatchHard | Self::BatchHardSoft)
    }

    /// The loss on every rung of a ladder. Rows being brought to length 1, its distances are those of cosines.
    pub fn build(self, ladder: &[usize], options: &LossOptions) -> Matryoshka {
        Matryoshka::new(self.plain(options), ladder)
    }

    fn plain(self, options: &LossOptions) -> Box<dyn Loss> {
        let distance = options.distance.unwrap_or(Distance::Cosine);
        let margin = options.margin;
        let ranking = |loss: RankingLoss| -> Box<dyn Loss> {
            let guided = loss.guided.map(|margin| options.guide.unwrap_or(margin));
            Box::new(RankingLoss { scale: options.scale.unwrap_or(loss.scale), guided, ..loss })
        };
        match self {
            Self::Ranking | Self::CachedRanking => ranking(RankingLoss::default()),
            Self::Symmetric => ranking(RankingLoss::symmetric()),
            Self::Guided | Self::CachedGuided => ranking(RankingLoss::guided(Margin::default())),
            Self::Triplet => Box::new(Triplet { distance, margin: margin.unwrap_or(COSINE_MARGIN) }),
            Self::BatchHard => {
                Box::new(BatchHard { distance, margin: Some(margin.unwrap_or(COSINE_MARGIN)) })
            }
            Self::BatchHardSoft => Box::new(BatchHard { distance, margin: None }),
            Self::Contrastive => {
                let default = Contrastive::default();
                Box::new(Contrastive { distance, margin: margin.unwrap_or(default.margin) })
            }
            Self::OnlineContrastive => {
                let default = OnlineContrastive::default();
                Box::new(OnlineContrastive { distance, margin: margin.unwrap_or(default.margin) })
            }
            Self::Cosine => Box::new(CosineScores),
            Self::CoSent => Box::new(CoSent { scale: options.scale.unwrap_or(CoSent::default().scale) }),
            Self::MarginMse => Box::new(MarginMse { similarity: Similarity::Cosine }),
            Self::Distillation => {
                let temperature = 1.0 / options.scale.unwrap_or(DISTILLATION_SCALE);
                Box::new(Distillation {
                    similarity: Similarity::Cosine,
                    temperature,
                    ..Distillation::default()
                })
            }
        }
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LossKind {
    type Err = Error;

    /// By its name.
    ///
    /// # Errors
    /// [`Error::Input`] with all names.
    fn from_str(name: &str) -> Result<Self> {
        let wanted = name.trim().to_ascii_lowercase().replace('_', "-");
        Self::all().find(|kind| kind.name() == wanted).ok_or_else(|| {
            let names: Vec<&str> = Self::all().map(Self::name).collect();
            Error::input(format!("there is no loss {name:?}; choose one of {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_again() {
        for kind in LossKind::all() {
            assert_eq!(kind.to_string().parse::<LossKind>().unwrap(), kind);
            assert!(!kind.shapes().is_empty());
        }
        assert_eq!(" MNRL_symmetric".parse::<LossKind>().unwrap(), LossKind::Symmetric);
        let error = "infonce".parse::<LossKind>().unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("\"infonce\"; choose one of mnrl, mnrl-symmetric"), "{error}");
    }

    #[test]
    fn every_shape_has_a_loss_that_learns_from_it() {
        for shape in Shape::ALL {
            LossKind::of_shape(shape).check(shape).unwrap();
        }
        let error = LossKind::Triplet.check(Shape::Scored).unwrap_err().to_string();
        let expected = "the loss triplet does not learn from scored pairs; these do: contrastive, online-contrastive, \
                        cosine, cosent";
        assert_eq!(error, expected);
    }

    #[test]
    fn every_kind_can_be_built_with_its_options() {
        let options = LossOptions {
            scale: Some(7.0),
            margin: Some(0.125),
            distance: Some(Distance::Euclidean),
            guide: Some(Margin::Relative(0.25)),
        };
        for (kind, parts) in [
            (LossKind::CachedGuided, ["scale: 7.0", "Relative(0.25)"]),
            (LossKind::BatchHard, ["Some(0.125)", "Euclidean"]),
            (LossKind::Triplet, ["0.125", "Euclidean"]),
            (LossKind::CoSent, ["scale: 7.0", "CoSent"]),
        ] {
            let built = format!("{:?}", kind.build(&[4, 8], &options));
            assert!(parts.iter().all(|part| built.contains(part)), "{built}");
        }
    }
}
