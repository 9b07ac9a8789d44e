//! Random fleets against a model of what a router should do, written as plainly as possible.

use llmserve_core::ModelError;

use super::*;
use crate::Replica;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to shake things.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// What a replica does with every request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    Answers,
    Overloaded,
    Panics,
    Refuses,
    FailsInTheMiddle,
}

const HABITS: [Habit; 5] = [
    Habit::Answers,
    Habit::Overloaded,
    Habit::Panics,
    Habit::Refuses,
    Habit::FailsInTheMiddle,
];

impl Habit {
    fn steps(self, name: &str) -> Vec<Step> {
        match self {
            Habit::Answers => says(name),
            Habit::Overloaded => fails(overloaded()),
            Habit::Panics => vec![Step::Yield, Step::Panic],
            Habit::Refuses => fails(refusal()),
            Habit::FailsInTheMiddle => vec![started(), token(name), Step::Fail(broken())],
        }
    }
}

fn refusal() -> Error {
    Error::NothingToSample { position: 1 }
}

fn broken() -> Error {
    Error::Model(ModelError::Backend("middle".into()))
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    dispatched: u64,
    failed: u64,
}

#[test]
fn random_fleets_do_as_the_model_says() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let size = 1 + random.below(5);
        let fleet: Vec<(Habit, Option<usize>)> = (0..size)
            .map(|_| {
                let habit = HABITS[random.below(HABITS.len())];
                // Serves model 0, model 1, or any.
                let model = Some(random.below(3)).filter(|model| *model < 2);
                (habit, model)
            })
            .collect();
        let max_attempts = 1 + random.below(4);
        let router = Router::builder()
            .availability(crate::AlwaysAvailable)
            .replicas(fleet.iter().enumerate().map(|(index, (habit, model))| {
                let name = format!("r{index}");
                let replica = Replica::new(name.clone(), Scripted::always(habit.steps(&name)));
                match model {
                    Some(model) => replica.model(format!("m{model}")),
                    None => replica,
                }
            }))
            .strategy(First)
            .max_attempts(max_attempts)
            .build()
            .unwrap();

        let mut counts: Vec<Counts> = fleet.iter().map(|_| Counts::default()).collect();
        for _ in 0..6 {
            let asked = Some(random.below(3)).filter(|model| *model < 2);
            let mut request = Request::text("");
            request.model = asked.map(|model| format!("m{model}"));
            let got = router.generate(request).wait();
            let told = format!("seed {seed}, {fleet:?}, {max_attempts} attempts, {asked:?}");

            let eligible = fleet
                .iter()
                .enumerate()
                .filter(|(_, (_, model))| asked.is_none() || model.is_none() || *model == asked);
            let mut expected = None;
            for (index, (habit, _)) in eligible.take(max_attempts) {
                counts[index].dispatched += 1;
                expected = Some((index, *habit));
                counts[index].failed +=
                    u64::from(!matches!(habit, Habit::Answers | Habit::Refuses));
                if !matches!(habit, Habit::Overloaded | Habit::Panics) {
                    break;
                }
            }
            match expected {
                None => assert!(matches!(got, Err(Error::UnknownModel { .. })), "{told}"),
                Some((index, Habit::Answers)) => {
                    assert_eq!(got.unwrap().text(), format!("r{index}"), "{told}");
                }
                Some((_, Habit::Overloaded)) => assert_eq!(got, Err(overloaded()), "{told}"),
                Some((_, Habit::Refuses)) => assert_eq!(got, Err(refusal()), "{told}"),
                Some((_, Habit::FailsInTheMiddle)) => assert_eq!(got, Err(broken()), "{told}"),
                Some((_, Habit::Panics)) => assert!(
                    matches!(
                        got,
                        Err(Error::Panicked {
                            part: "replica",
                            ..
                        })
                    ),
                    "{told}"
                ),
            }
            for (stats, expected) in router.stats().replicas.iter().zip(&counts) {
                let counted = Counts {
                    dispatched: stats.dispatched,
                    failed: stats.failed,
                };
                assert_eq!(counted, *expected, "{told}");
            }
            assert_idle(&router);
        }
    }
}
