//! Which machines, for the least money.

mod search;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::search::{Item, Search};
use super::error::{ScaleConfigError, positive, wrong};

/// A catalogue: the kinds of machines there are, as a host writes them down.
///
/// ```
/// use llmserve_route::scale::{Hardware, Kind, Spot, Wanted};
/// let catalogue = Hardware::new([
///     Kind::new("small", 1.0, 1_000.0, 24.0),
///     Kind::new("large", 3.5, 4_000.0, 80.0).spot(Spot::new(0.6, 0.05)),
/// ])?;
/// let choice = catalogue.cheapest(&Wanted::new(9_000.0, 20.0).spot_share(0.0))?;
/// let mix: Vec<_> = choice.mix.iter().map(|of| (of.kind.as_str(), of.count)).collect();
/// assert_eq!((mix, choice.cost_per_hour), (vec![("large", 2), ("small", 1)], 8.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Hardware {
    /// The kinds.
    pub kinds: Vec<Kind>,
}

/// A kind of machine, with the model at hand on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Kind {
    /// Its name, unique in its catalogue.
    pub name: String,
    /// What an hour costs, in the host's unit.
    pub cost_per_hour: f64,
    /// The tokens a second that one of them makes, at the load at which it is to run.
    pub tokens_per_second: f64,
    /// Its memory for weights and KV, in GiB.
    pub memory_gib: f64,
    /// The time to the first token at that load that 95 of 100 requests keep, in milliseconds.
    /// None: not known, and not good enough where one is wanted.
    #[serde(default)]
    pub p95_ms: Option<f64>,
    /// The most of them that can be had. None: any number.
    #[serde(default)]
    pub most: Option<usize>,
    /// What they are as spot instances, which may be taken away. None: there are none.
    #[serde(default)]
    pub spot: Option<Spot>,
}

/// Machines that are cheaper and may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Spot {
    /// The part of the price that is not paid; from 0, below 1.
    pub discount: f64,
    /// The part of the time in which one of them is not there: taken away, or its successor not
    /// ready. So much less of its tokens is reckoned with. From 0, below 1.
    pub interruption: f64,
    /// The most of them that can be had, besides the others. None: any number.
    #[serde(default)]
    pub most: Option<usize>,
}

/// What machines are wanted for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Wanted {
    /// The tokens a second they shall make together.
    pub tokens_per_second: f64,
    /// The memory each must have, in GiB.
    pub memory_gib: f64,
    /// The time to the first token that 95 of 100 requests shall keep. Default: none.
    #[serde(default)]
    pub p95: Option<Duration>,
    /// The most of the tokens that may rest on spot instances, from 0 to 1. Default: 0.5.
    #[serde(default = "spot_share")]
    pub spot_share: f64,
}

fn spot_share() -> f64 {
    0.5
}

impl Kind {
    /// A kind of which there are as many as wanted, and none as spot instances.
    pub fn new(
        name: impl Into<String>,
        cost_per_hour: f64,
        tokens_per_second: f64,
        memory_gib: f64,
    ) -> Self {
        Self {
            name: name.into(),
            cost_per_hour,
            tokens_per_second,
            memory_gib,
            p95_ms: None,
            most: None,
            spot: None,
        }
    }

    /// See [`Kind::p95_ms`].
    pub fn p95_ms(mut self, milliseconds: f64) -> Self {
        self.p95_ms = Some(milliseconds);
        self
    }

    /// See [`Kind::most`].
    pub fn most(mut self, machines: usize) -> Self {
        self.most = Some(machines);
        self
    }

    /// See [`Kind::spot`].
    pub fn spot(mut self, spot: Spot) -> Self {
        self.spot = Some(spot);
        self
    }

    /// Why it will not do; none where it will.
    fn unfit(&self, wanted: &Wanted) -> Option<String> {
        if self.memory_gib < wanted.memory_gib {
            let Wanted { memory_gib, .. } = wanted;
            return Some(format!("{} GiB of {memory_gib} GiB", self.memory_gib));
        }
        let limit = wanted.p95?.as_secs_f64() * 1e3;
        match self.p95_ms {
            Some(p95) if p95 <= limit => None,
            Some(p95) => Some(format!("p95 of {p95} ms, {limit} ms are wanted")),
            None => Some(format!("p95 is not known, {limit} ms are wanted")),
        }
    }
}

impl Spot {
    /// Any number of them.
    pub fn new(discount: f64, interruption: f64) -> Self {
        Self {
            discount,
            interruption,
            most: None,
        }
    }

    /// See [`Spot::most`].
    pub fn most(mut self, machines: usize) -> Self {
        self.most = Some(machines);
        self
    }
}

impl Wanted {
    /// So many tokens a second, from machines of so much memory each.
    pub fn new(tokens_per_second: f64, memory_gib: f64) -> Self {
        Self {
            tokens_per_second,
            memory_gib,
            p95: None,
            spot_share: spot_share(),
        }
    }

    /// See [`Wanted::p95`].
    pub fn p95(mut self, time: Duration) -> Self {
        self.p95 = Some(time);
        self
    }

    /// See [`Wanted::spot_share`].
    pub fn spot_share(mut self, part: f64) -> Self {
        self.spot_share = part;
        self
    }
}

/// The cheapest mix that does, and why the others do not.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct HardwareChoice {
    /// What to have, the least cost a token first. Empty where nothing is wanted.
    pub mix: Vec<Instances>,
    /// What an hour of all of it costs.
    pub cost_per_hour: f64,
    /// The tokens a second to be reckoned with: spot instances with what they are not there for
    /// taken off.
    pub tokens_per_second: f64,
    /// Kinds that will not do.
    pub ruled_out: Vec<RuledOut>,
    /// Whether there is none cheaper for certain. A million mixes are looked at: a catalogue of a
    /// few dozen kinds rarely needs more.
    pub proven: bool,
}

/// So many of one kind.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Instances {
    /// The kind's name.
    pub kind: String,
    /// Whether they are spot instances.
    pub spot: bool,
    /// How many.
    pub count: usize,
    /// What a million tokens cost on them, in full use.
    pub cost_per_million: f64,
}

/// A kind that will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuledOut {
    /// The kind's name.
    pub kind: String,
    /// Why.
    pub reason: String,
}

impl Hardware {
    /// A catalogue.
    ///
    /// # Errors
    /// A kind that cannot be, or two of one name.
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Result<Self, ScaleConfigError> {
        let new = Self {
            kinds: kinds.into_iter().collect(),
        };
        new.check()?;
        Ok(new)
    }

    /// Checks the kinds.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn check(&self) -> Result<(), ScaleConfigError> {
        for (at, kind) in self.kinds.iter().enumerate() {
            let of = |field: &str| format!("{field} of {:?}", kind.name);
            if self.kinds[..at].iter().any(|other| other.name == kind.name) {
                return wrong("the name of a kind", &kind.name, "another has it");
            }
            positive(&of("cost_per_hour"), kind.cost_per_hour)?;
            positive(&of("tokens_per_second"), kind.tokens_per_second)?;
            positive(&of("memory_gib"), kind.memory_gib)?;
            if let Some(p95) = kind.p95_ms {
                positive(&of("p95_ms"), p95)?;
            }
            if let Some(spot) = kind.spot {
                for (field, part) in [
                    ("spot.discount", spot.discount),
                    ("spot.interruption", spot.interruption),
                ] {
                    if !(0.0..1.0).contains(&part) {
                        return wrong(of(field), part, "it is from 0 and below 1");
                    }
                }
            }
        }
        Ok(())
    }

    /// The cheapest mix of machines that makes what is wanted.
    ///
    /// # Errors
    /// Something in `self` or `wanted` that cannot be; or what is wanted cannot be had, the field
    /// then being `tokens_per_second` and its value what all that will do make together.
    pub fn cheapest(&self, wanted: &Wanted) -> Result<HardwareChoice, ScaleConfigError> {
        self.check()?;
        let asked = wanted.tokens_per_second;
        if !(0.0..f64::INFINITY).contains(&asked) {
            return wrong("tokens_per_second", asked, "it is finite and not below 0");
        }
        if !(0.0..=1.0).contains(&wanted.spot_share) {
            return wrong("spot_share", wanted.spot_share, "it is from 0 to 1");
        }
        let mut ruled_out = Vec::new();
        let mut items = Vec::new();
        for kind in &self.kinds {
            if let Some(reason) = kind.unfit(wanted) {
                let kind = kind.name.clone();
                ruled_out.push(RuledOut { kind, reason });
                continue;
            }
            items.push(Item {
                kind,
                spot: false,
                cost: kind.cost_per_hour,
                tokens: kind.tokens_per_second,
                most: kind.most.unwrap_or(usize::MAX),
            });
            items.extend(
                kind.spot
                    .filter(|_| wanted.spot_share > 0.0)
                    .map(|spot| Item {
                        kind,
                        spot: true,
                        cost: kind.cost_per_hour * (1.0 - spot.discount),
                        tokens: kind.tokens_per_second * (1.0 - spot.interruption),
                        most: spot.most.unwrap_or(usize::MAX),
                    }),
            );
        }
        items.sort_by(|a, b| a.per_token().total_cmp(&b.per_token()));
        let lasting = asked * (1.0 - wanted.spot_share);
        let mut search = Search::new(&items);
        search.look(0, asked, lasting, 0.0);
        let Some(counts) = search.best() else {
            let all = items.iter().map(|item| item.tokens * item.most as f64);
            let reason = if ruled_out.len() == self.kinds.len() {
                "no kind in the catalogue has the memory and the p95 that are wanted"
            } else {
                "all that can be had together make no more, or too much of it may be taken away"
            };
            return wrong("tokens_per_second", all.sum::<f64>(), reason);
        };
        let used = items.iter().zip(counts).filter(|(_, count)| *count > 0);
        let used: Vec<_> = used.collect();
        let sum = |of: fn(&Item<'_>) -> f64| {
            used.iter()
                .map(|(item, count)| of(item) * *count as f64)
                .sum()
        };
        Ok(HardwareChoice {
            cost_per_hour: sum(|item| item.cost),
            tokens_per_second: sum(|item| item.tokens),
            mix: used
                .iter()
                .map(|(item, count)| Instances {
                    kind: item.kind.name.clone(),
                    spot: item.spot,
                    count: *count,
                    cost_per_million: item.per_token() * 1e6 / 3_600.0,
                })
                .collect(),
            ruled_out,
            proven: search.is_proven(),
        })
    }
}
