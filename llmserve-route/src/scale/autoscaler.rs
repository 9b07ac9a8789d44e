//! What keeps a target at the size it should have.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{GuardedRecorder, NoopRecorder, Recorder, Time};
use parking_lot::Mutex;

use super::error::ScaleConfigError;
use super::gauges::Gauges;
use super::horizontal::{Decision, Horizontal, LastScaled, Reason};
use super::predictive::{Demand, Forecast, Predictive};
use super::signals::Signals;
use super::target::{ScaleError, ScaleTarget};

/// Hours of demand that are remembered: eight weeks.
const MOST_HOURS: usize = 8 * 168;

/// Samples of a window that are remembered, whatever its length.
const MOST_SIGNALS: usize = 4_096;

/// Keeps a [`ScaleTarget`] at the size it should have.
///
/// It has no thread: a host [tells it](Self::observe) what it or a [`Meter`](super::Meter) measures,
/// and [ticks](Self::tick), such as every 15 seconds. The larger of what [`Horizontal`] and [`Predictive`] ask for is done.
///
/// | gauge, with the label `service` | what |
/// | --- | --- |
/// | `llmserve_route_scale_replicas` | replicas that answer |
/// | `llmserve_route_scale_desired_replicas` | replicas there should be |
/// | those of [`SignalGauges`](super::SignalGauges) | what was observed last |
/// | `llmserve_route_scale_forecast` | requests a second expected [`lead`](Predictive::lead) from now |
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Engine;
/// # impl Generate for Engine {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use std::time::Duration;
/// use llmserve_route::scale::{Autoscaler, Horizontal, RouterTarget, Signals};
/// use llmserve_route::{Replica, Router};
/// let router = Router::builder().allow_empty(true).build()?;
/// let start = |name: &str| Ok(Replica::new(name, Engine).capacity(64));
/// let scaler = Autoscaler::builder(RouterTarget::new(router.clone(), "engine", start))
///     .horizontal(Horizontal::default().between(2, 8))
///     .build()?;
/// let now = Duration::from_secs(15);
/// scaler.observe(Signals::of(&router, now));
/// assert_eq!(scaler.tick(now)?.decision.replicas, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Autoscaler {
    target: Box<dyn ScaleTarget>,
    horizontal: Horizontal,
    predictive: Option<Predictive>,
    gauges: Gauges,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of the window, in the order in which they came.
    signals: VecDeque<Signals>,
    /// By hour, the sum of what was measured and how often.
    demand: BTreeMap<u64, (f64, u32)>,
    last: LastScaled,
}

/// What came of a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Tick {
    /// How many replicas there were.
    pub current: usize,
    /// How many there should be.
    pub decision: Decision,
    /// What is expected [`lead`](Predictive::lead) from now; none where nothing is predicted.
    pub forecast: Option<Forecast>,
}

impl Autoscaler {
    /// Starts putting together what keeps `target` at its size.
    pub fn builder(target: impl ScaleTarget + 'static) -> AutoscalerBuilder {
        AutoscalerBuilder {
            target: Box::new(target),
            horizontal: Horizontal::default(),
            predictive: None,
            history: Vec::new(),
            recorder: Arc::new(NoopRecorder),
            service: "default".to_owned(),
        }
    }

    /// What was measured.
    pub fn observe(&self, signals: Signals) {
        self.gauges.measured(&signals);
        let mut state = self.state.lock();
        if let Some(per_second) = signals.demand {
            state.note(Demand {
                at: signals.at,
                per_second,
            });
        }
        state.signals.push_back(signals);
        if state.signals.len() > MOST_SIGNALS {
            state.signals.pop_front();
        }
    }

    /// Decides how many replicas there should be at `now`, and tells the target where that is
    /// another number than there are.
    ///
    /// # Errors
    /// The target failed. The next tick tries again, without a pause.
    pub fn tick(&self, now: Time) -> Result<Tick, ScaleError> {
        let current = self.target.current();
        let tick = {
            let mut state = self.state.lock();
            let window = self.horizontal.window();
            state
                .signals
                .retain(|signals| now.saturating_sub(signals.at) <= window);
            self.decide(now, current, &mut state)
        };
        self.gauges.decided(&tick);
        if tick.decision.replicas != current {
            self.target.scale_to(tick.decision.replicas)?;
            self.state.lock().last = LastScaled(Some(now));
        }
        Ok(tick)
    }

    fn decide(&self, now: Time, current: usize, state: &mut State) -> Tick {
        let horizontal = &self.horizontal;
        let measured = horizontal.decide(now, current, state.signals.make_contiguous(), state.last);
        let mut tick = Tick {
            current,
            decision: measured,
            forecast: None,
        };
        let Some(predictive) = &self.predictive else {
            return tick;
        };
        let history = state.history();
        tick.forecast = predictive.forecast(&history, now.saturating_add(predictive.lead));
        if let Some(needed) = predictive.replicas(&history, now) {
            let expected = horizontal.settle(now, current, needed, Reason::Forecast, state.last);
            if expected.replicas > measured.replicas {
                tick.decision = expected;
            }
        }
        tick
    }

    /// The demand of the last eight weeks, by the hour, to be kept where it outlives the process
    /// and given to [`history`](AutoscalerBuilder::history).
    pub fn history(&self) -> Vec<Demand> {
        self.state.lock().history()
    }
}

impl State {
    fn note(&mut self, demand: Demand) {
        if !(0.0..f64::INFINITY).contains(&demand.per_second) {
            return;
        }
        let hour = self.demand.entry(demand.at.as_secs() / 3_600).or_default();
        hour.0 += demand.per_second;
        hour.1 += 1;
        if self.demand.len() > MOST_HOURS {
            self.demand.pop_first();
        }
    }

    /// The mean of each hour, in its middle.
    fn history(&self) -> Vec<Demand> {
        let hours = self.demand.iter();
        hours
            .map(|(hour, (sum, of))| Demand {
                at: Duration::from_secs(hour * 3_600 + 1_800),
                per_second: sum / f64::from(*of),
            })
            .collect()
    }
}

impl std::fmt::Debug for Autoscaler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Autoscaler")
            .field("horizontal", &self.horizontal)
            .field("predictive", &self.predictive)
            .finish_non_exhaustive()
    }
}

/// The parts of an [`Autoscaler`].
#[must_use = "an autoscaler is made by build()"]
pub struct AutoscalerBuilder {
    target: Box<dyn ScaleTarget>,
    horizontal: Horizontal,
    predictive: Option<Predictive>,
    history: Vec<Demand>,
    recorder: Arc<dyn Recorder>,
    service: String,
}

impl AutoscalerBuilder {
    /// How many for what is measured, and the limits of everything. Default:
    /// [`Horizontal::default`].
    pub fn horizontal(mut self, horizontal: Horizontal) -> Self {
        self.horizontal = horizontal;
        self
    }

    /// How many for what is expected. Default: nothing is.
    pub fn predictive(mut self, predictive: Predictive) -> Self {
        self.predictive = Some(predictive);
        self
    }

    /// What was asked for before, in the same time as signals and ticks. Default: nothing.
    pub fn history(mut self, demand: impl IntoIterator<Item = Demand>) -> Self {
        self.history.extend(demand);
        self
    }

    /// Where gauges go, with this value of the label `service`. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>, service: impl Into<String>) -> Self {
        self.recorder = Arc::new(GuardedRecorder::new(recorder));
        self.service = service.into();
        self
    }

    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`ScaleConfigError`].
    pub fn build(self) -> Result<Autoscaler, ScaleConfigError> {
        self.horizontal.check()?;
        if let Some(predictive) = &self.predictive {
            predictive.check()?;
        }
        let mut state = State::default();
        for demand in self.history {
            state.note(demand);
        }
        Ok(Autoscaler {
            gauges: Gauges::new(&*self.recorder, &self.service),
            target: self.target,
            horizontal: self.horizontal,
            predictive: self.predictive,
            state: Mutex::new(state),
        })
    }
}

impl std::fmt::Debug for AutoscalerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AutoscalerBuilder")
            .field("horizontal", &self.horizontal)
            .field("predictive", &self.predictive)
            .finish_non_exhaustive()
    }
}
