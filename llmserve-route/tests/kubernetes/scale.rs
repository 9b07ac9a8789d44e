//! The scale subresource.

use std::sync::mpsc::channel;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::core::ApiResource;
use llmserve_route::KubernetesError;
use llmserve_route::scale::{Autoscaler, Horizontal, KubernetesScale, ScaleTarget, Signals};
use serde_json::{Value, json};

use super::server::{Reply, Server, TOKEN};

const PATH: &str = "/apis/apps/v1/namespaces/default/deployments/model/scale";

fn scale(wanted: Option<i32>) -> Value {
    json!({ "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": { "name": "model", "namespace": "default", "resourceVersion": "5" },
        "spec": { "replicas": wanted }, "status": { "replicas": 1 } })
}

fn connect(server: &Server) -> Result<KubernetesScale, KubernetesError> {
    server.runtime.block_on(async {
        let deployment = ApiResource::erase::<Deployment>(&());
        KubernetesScale::connect(server.client(), &deployment, "default", "model").await
    })
}

fn connected(server: &Server, replicas: i32) -> KubernetesScale {
    server.will_answer(scale(Some(replicas)));
    let target = connect(server).expect("it is there");
    assert_eq!(
        server.asked().line,
        format!("GET {PATH}? HTTP/1.1").replace("?", "")
    );
    target
}

#[test]
fn it_is_read_and_changed() {
    let server = Server::new();
    let target = connected(&server, 3);
    server.will_answer(scale(Some(4)));
    assert_eq!(target.current(), 4, "somebody else changed it");
    server.asked();
    server.will_answer(scale(Some(7)));
    target.scale_to(7).expect("it may");
    let asked = server.asked();
    assert!(
        asked.line.starts_with(&format!("PATCH {PATH}")),
        "{asked:?}"
    );
    let body: Value = serde_json::from_str(&asked.body).expect("JSON");
    assert_eq!(body, json!({ "spec": { "replicas": 7 } }));
    // None wanted is none said.
    server.will_answer(scale(None));
    assert_eq!(target.current(), 0);
    // What Kubernetes cannot count to is not asked for.
    server.asked();
    assert!(target.scale_to(usize::MAX).is_err());
    assert!(server.was_asked_nothing());
}

#[test]
fn conflicts_are_tried_again_and_not_for_ever() {
    let server = Server::new();
    let target = connected(&server, 1);
    for _ in 0..2 {
        server.will_refuse(409, "Conflict");
    }
    server.will_answer(scale(Some(2)));
    target.scale_to(2).expect("in the end");
    (0..3).for_each(|_| drop(server.asked()));
    for _ in 0..4 {
        server.will_refuse(409, "Conflict");
    }
    let error = target.scale_to(3).expect_err("never");
    assert_eq!((error.wanted, error.current), (3, 2));
    assert!(
        error.message.contains("somebody else changed it"),
        "{error}"
    );
    (0..4).for_each(|_| drop(server.asked()));
    assert!(server.was_asked_nothing());
}

#[test]
fn refusals_have_names_and_keep_secrets() {
    let server = Server::new();
    let what = "get the scale subresource";
    for (status, reason, expected) in [
        (401, "Unauthorized", KubernetesError::Unauthorized { what }),
        (403, "Forbidden", KubernetesError::Forbidden { what }),
        (404, "NotFound", KubernetesError::NotFound { what }),
    ] {
        server.will_refuse(status, reason);
        assert_eq!(connect(&server).expect_err("refused"), expected);
        server.asked();
    }
    server.will_refuse(422, "Invalid");
    let error = connect(&server).expect_err("refused").to_string();
    assert!(error.contains("422 (Invalid)"), "{error}");
    server.asked();
    // A reason that is no name is not told.
    server.will_refuse(500, &format!("because of {TOKEN}"));
    let error = connect(&server).expect_err("refused");
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
    server.asked();
    server.will_answer(json!({ "kind": "Scale", "spec": TOKEN }));
    let error = connect(&server).expect_err("nonsense");
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error}");
    assert!(
        matches!(error, KubernetesError::Unreachable { .. }),
        "{error:?}"
    );
    server.asked();
    // Later refusals leave what was known, and the change says why.
    let target = connected(&server, 2);
    server.will_refuse(403, "Forbidden");
    server.will_refuse(403, "Forbidden");
    assert_eq!(target.current(), 2);
    let error = target.scale_to(5).expect_err("refused");
    assert_eq!(error.current, 2);
    assert!(
        error
            .message
            .contains("forbids it to patch the scale subresource"),
        "{error}"
    );
    assert!(!format!("{error:?} {target:?}").contains(TOKEN));
}

#[test]
fn a_server_that_is_silent_or_gone_holds_nobody_up() {
    let server = Server::new();
    let target = connected(&server, 2).timeout(Duration::from_millis(50));
    let (hold, until) = channel();
    server.will(Reply::Silence(until));
    let error = target.scale_to(3).expect_err("silence");
    assert!(error.message.contains("longer than 50ms"), "{error}");
    drop(hold);
    let target = target.timeout(Duration::from_secs(30));
    // The client itself asks twice where a connection breaks off, or does not.
    for _ in 0..2 {
        server.will(Reply::Nothing);
    }
    let error = target.scale_to(3).expect_err("gone");
    assert!(error.message.contains("could not be asked"), "{error}");
}

#[test]
fn an_autoscaler_scales_it() {
    let server = Server::new();
    let target = connected(&server, 2);
    let scaler = Autoscaler::builder(target)
        .horizontal(Horizontal::default().between(1, 8))
        .build()
        .expect("a scaler");
    let now = Duration::from_secs(60);
    scaler.observe(Signals::new(now, 2).utilization(1.4));
    server.will_answer(scale(Some(2)));
    server.will_answer(scale(Some(4)));
    let tick = scaler.tick(now).expect("it may");
    assert_eq!((tick.current, tick.decision.replicas), (2, 4));
    server.asked();
    assert!(server.asked().body.contains("4"));
}
