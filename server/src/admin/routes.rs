//! What is answered under which path.

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::oneshot;

use super::{
    ShardHandle,
    health::{Health, health_of},
};
use crate::{
    metrics::{self, ShardMetrics, ShardStatus},
    shard::AdminCommand,
};

const INDEX: &str = "lockstep-server\n\
    /metrics              numbers, as OpenMetrics text\n\
    /healthz              200 when every shard serves as primary or backup, else 503 and why not\n\
    /status               every shard as JSON\n\
    /state-hash?shard=0   hash over a shard's content, to compare replicas at the same `applied`; costs a walk over all keys\n";

/// How long a hash over a large store may take.
const STATE_HASH_TIMEOUT: Duration = Duration::from_secs(60);

type Shards = State<Arc<[ShardHandle]>>;

/// The admin port's paths over `shards`.
pub fn router(shards: Vec<ShardHandle>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/status", get(status))
        .route("/state-hash", get(state_hash))
        .with_state(shards.into())
}

async fn metrics(State(shards): Shards) -> Response {
    let numbers: Vec<Arc<ShardMetrics>> = shards.iter().map(|shard| Arc::clone(&shard.metrics)).collect();
    match metrics::encode(&numbers) {
        Ok(text) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
        }
    }
}

async fn healthz(State(shards): Shards) -> Response {
    let mut text = String::new();
    let mut code = StatusCode::OK;
    for shard in shards.iter() {
        let number = shard.metrics.shard;
        let written = match health_of(&shard.status.read()) {
            Health::Serving(role) => writeln!(text, "shard {number}: {}", format!("{role:?}").to_lowercase()),
            Health::NotServing(reason) => {
                code = StatusCode::SERVICE_UNAVAILABLE;
                writeln!(text, "shard {number}: {reason}")
            }
        };
        written.expect("a string takes everything");
    }
    (code, text).into_response()
}

async fn status(State(shards): Shards) -> Json<Vec<ShardStatus>> {
    Json(shards.iter().filter_map(|shard| shard.status.read().status).collect())
}

async fn state_hash(State(shards): Shards, RawQuery(query): RawQuery) -> Response {
    let number = match shard_of_query(query.as_deref()) {
        Ok(number) => number,
        Err(error) => return (StatusCode::BAD_REQUEST, error).into_response(),
    };
    let Some(shard) = shards.iter().find(|shard| shard.metrics.shard == number) else {
        let text = format!("there is no shard {number}: this server has shards 0 to {}\n", shards.len() - 1);
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let (answer, answered) = oneshot::channel();
    if shard.commands.try_send(AdminCommand::StateHash { answer }).is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the shard is busy with earlier questions, or stopping\n")
            .into_response();
    }
    match tokio::time::timeout(STATE_HASH_TIMEOUT, answered).await {
        Ok(Ok(hash)) => Json(hash).into_response(),
        Ok(Err(_)) => (StatusCode::SERVICE_UNAVAILABLE, "the shard is stopping\n").into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the shard did not answer in time\n").into_response(),
    }
}

fn shard_of_query(query: Option<&str>) -> Result<u16, String> {
    let Some(query) = query.filter(|query| !query.is_empty()) else {
        return Ok(0);
    };
    let number = query.strip_prefix("shard=").and_then(|number| number.parse().ok());
    number.ok_or_else(|| "write /state-hash?shard=N with the number of a shard\n".to_owned())
}
