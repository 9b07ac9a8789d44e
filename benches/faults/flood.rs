//! A tenant of few requests beside one of many, over HTTP: gateway, limits, admission, router.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use llmserve_benches::Report;
use llmserve_route::admission::{Admission, Class};
use llmserve_route::gateway::Gateway;
use llmserve_route::limits::{Limit, Limiter, Limits};
use llmserve_route::remote::{Dialect, RemoteEndpoint};
use llmserve_route::{Replica, Router};
use serde_json::json;

use crate::rig::{Rig, ask};
use crate::{Args, Told, check};

/// Requests a tenant may have under way, and all of them together.
const EACH: usize = 24;
const ALL: usize = 32;
/// The flooder's connections: each asks again as soon as it has an answer, or a refusal.
const FLOOD: usize = 128;

/// The small tenant's answers alone, and beside the flooder.
pub fn flood(args: &Args, seconds: u64) -> Result<(), Box<dyn Error>> {
    let rate = args.rate / 10;
    let title = format!("{rate} requests/s of one tenant, {FLOOD} connections of another");
    let mut report = Report::new(&title, args.json);
    let rig = Rig::new()?;
    let url = rig.clients.block_on(front(&rig))?;
    let tenant = |name: &str| {
        RemoteEndpoint::builder(name, &url)
            .dialect(Dialect::Llmserve)
            .key(name)
            .runtime(rig.clients.handle().clone())
            .build()
    };
    let (small, flooder) = (tenant("small")?, tenant("flooder")?);
    for flooded in [false, true] {
        let over = Arc::new(AtomicBool::new(!flooded));
        let served = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(AtomicU64::new(0));
        let floods: Vec<_> = (0..FLOOD)
            .map(|_| {
                let (flooder, over) = (flooder.clone(), over.clone());
                let (served, refused) = (served.clone(), refused.clone());
                rig.clients.spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        let outcome = ask(&flooder, 12, 2).await;
                        let count = if outcome.whole { &served } else { &refused };
                        count.fetch_add(1, Ordering::Relaxed);
                        if !outcome.whole {
                            // Less than it is told to wait: it is no good client.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                })
            })
            .collect();
        let mut traffic = rig.start_at(Arc::new(small.clone()), rate, Duration::from_secs(seconds));
        let outcomes = traffic.finish();
        over.store(true, Ordering::Relaxed);
        for flood in floods {
            rig.clients.block_on(flood)?;
        }
        let told = Told::of(&outcomes);
        check(&told, &outcomes)?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        report.row(
            if flooded { "beside a flood" } else { "alone" },
            &[
                ("answered", json!(told.whole)),
                ("first_token_p50_ms", json!(ms(told.first_p50))),
                ("first_token_p99_ms", json!(ms(told.first_p99))),
                ("answer_p99_ms", json!(ms(told.p99))),
                ("flood_answered", json!(served.load(Ordering::Relaxed))),
                ("flood_refused", json!(refused.load(Ordering::Relaxed))),
            ],
        );
    }
    Ok(())
}

/// The gateway that both tenants talk to; its URL. Who somebody is says the key.
async fn front(rig: &Rig) -> Result<String, Box<dyn Error>> {
    let replicas = rig.endpoints.iter();
    let replicas = replicas.map(|endpoint| Replica::new(endpoint.name(), endpoint.clone()));
    let router = Router::builder().replicas(replicas).build()?;
    let admission = Admission::builder(router, ALL)
        .class(Class::new("all"))
        .classify(|_| 0)
        .build()?;
    let limiter = Limiter::builder()
        .default_limit(Limit::default().concurrent(EACH))
        .build()?;
    let gateway =
        Gateway::new(Limits::builder(admission, limiter).build()).on_request(|head, request| {
            let key = head.headers.get("authorization");
            let key = key.and_then(|key| key.to_str().ok());
            request.tenant = key.map(str::to_owned);
            Ok(())
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, gateway.into_router()).await });
    Ok(url)
}
