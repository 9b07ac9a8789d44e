//! A recorded trace from strangers: an error, or a simulation that comes to an end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_core::IdentityRoot;
use llmserve_kv::PagedKv;
use llmserve_sched::ContinuousScheduler;
use llmserve_sched::simulation::{SimulatedRequest, Simulation, SimulationError};

fuzz_target!(|data: &[u8]| {
    let lines = serde_json::Deserializer::from_slice(data).into_iter::<SimulatedRequest>();
    let Ok(mut requests) = lines.collect::<Result<Vec<_>, _>>() else {
        return;
    };
    requests.sort_by_key(|request| request.arrival);
    let (Ok(simulation), Ok(mut scheduler)) = (
        Simulation::builder().build(),
        ContinuousScheduler::builder().build(),
    ) else {
        unreachable!("the defaults are valid");
    };
    let kv = PagedKv::builder().blocks(64).root(IdentityRoot::new(1, "fuzz", 16));
    let Ok(mut kv) = kv.build() else {
        unreachable!("the options are valid");
    };
    let count = requests.len() as u64;
    match simulation.replay(requests, &mut scheduler, &mut kv) {
        Ok(report) => assert_eq!(report.requests.total, count),
        // Time itself has an end.
        Err(error) => assert!(matches!(error, SimulationError::Stuck { .. }), "{error}"),
    }
});
