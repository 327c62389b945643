//! What is answered under which path.

use std::{fmt::Write, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT, CONTENT_TYPE, ORIGIN},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    ShardHandle,
    health::{Health, health_of},
};
use crate::{
    metrics::{self, ShardMetrics, ShardStatus},
    shard::{AdminCommand, MoveOutcome},
};

const INDEX: &str = "lockstep-server\n\
    /metrics              numbers for Prometheus, as OpenMetrics text where that is asked for\n\
    /healthz              200 when every shard serves as primary, or as backup that hears its primary, else 503 and why not\n\
    /status               every shard as JSON\n\
    /state-hash?shard=0   hash over a shard's content, to compare replicas at the same `applied`; costs a walk over all keys\n\
    POST /move-primary?shard=0&to=1   lets another server become primary; without `to` the one that has caught up best\n";

/// How long a hash over a large store may take.
const STATE_HASH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a handover may take: longer than it is tried.
const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

type Shards = State<Arc<[ShardHandle]>>;

/// The admin port's paths over `shards`.
pub fn router(shards: Vec<ShardHandle>) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/status", get(status))
        .route("/state-hash", get(state_hash))
        .route("/move-primary", post(move_primary))
        .with_state(shards.into())
}

async fn metrics(State(shards): Shards, headers: HeaderMap) -> Response {
    let is_wanted =
        |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("application/openmetrics-text"));
    let is_openmetrics = headers.get_all(ACCEPT).iter().any(is_wanted);
    let numbers: Vec<Arc<ShardMetrics>> = shards.iter().map(|shard| Arc::clone(&shard.metrics)).collect();
    match metrics::encode(&numbers) {
        Ok(text) if !is_openmetrics => {
            ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::classic(&text)).into_response()
        }
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
    let usage = "write /state-hash?shard=N with the number of a shard\n";
    let Some([shard]) = numbers_of_query(query.as_deref(), ["shard"]) else {
        return (StatusCode::BAD_REQUEST, usage).into_response();
    };
    let ask = |answer| AdminCommand::StateHash { answer };
    match ask_shard(&shards, shard.unwrap_or(0), ask, STATE_HASH_TIMEOUT).await {
        Ok(hash) => Json(hash).into_response(),
        Err(refused) => refused.into_response(),
    }
}

/// What has become of a handover.
#[derive(Serialize)]
struct Moved {
    shard: u16,
    /// The view of the new primary, which is server `view mod servers`.
    view: u64,
}

async fn move_primary(State(shards): Shards, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    // A browser names where a page comes from that has it post something, and any page that its user opens can have it
    // do that.
    if headers.contains_key(ORIGIN) {
        return (StatusCode::FORBIDDEN, "web pages cannot move the primary\n").into_response();
    }
    let usage = "write /move-primary?shard=N&to=I with the numbers of a shard and of a server\n";
    let numbers = numbers_of_query(query.as_deref(), ["shard", "to"]);
    let Some([shard, to]) = numbers.filter(|[_, to]| to.is_none_or(|to| u8::try_from(to).is_ok())) else {
        return (StatusCode::BAD_REQUEST, usage).into_response();
    };
    let shard = shard.unwrap_or(0);
    let ask = |answer| AdminCommand::MovePrimary { to: to.map(|to| to as u8), answer };
    let outcome = match ask_shard(&shards, shard, ask, MOVE_TIMEOUT).await {
        Ok(outcome) => outcome,
        Err(refused) => return refused.into_response(),
    };
    let refuse = |code, text: String| (code, text + "\n").into_response();
    match outcome {
        MoveOutcome::Done { view } => Json(Moved { shard, view }).into_response(),
        MoveOutcome::NotPrimary { view } => {
            refuse(StatusCode::CONFLICT, format!("{}: ask the primary of view {view}", outcome.text()))
        }
        MoveOutcome::NoSuchServer => refuse(StatusCode::NOT_FOUND, outcome.text().to_owned()),
        MoveOutcome::Busy | MoveOutcome::GivenUp => refuse(StatusCode::SERVICE_UNAVAILABLE, outcome.text().to_owned()),
    }
}

/// Why a shard has not answered.
type Refused = (StatusCode, String);

/// Asks a shard something and waits for its answer.
async fn ask_shard<T>(
    shards: &[ShardHandle],
    number: u16,
    ask: impl FnOnce(oneshot::Sender<T>) -> AdminCommand,
    timeout: Duration,
) -> Result<T, Refused> {
    let Some(shard) = shards.iter().find(|shard| shard.metrics.shard == number) else {
        let text = format!("there is no shard {number}: this server has shards 0 to {}\n", shards.len() - 1);
        return Err((StatusCode::NOT_FOUND, text));
    };
    let (answer, answered) = oneshot::channel();
    let refuse = |code, text: &'static str| Err((code, text.to_owned()));
    if shard.commands.try_send(ask(answer)).is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the shard is busy with earlier questions, or stopping\n");
    }
    match tokio::time::timeout(timeout, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the shard is stopping\n"),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "the shard did not answer in time\n"),
    }
}

/// The numbers that a query gives under these names; `None` if it says anything else.
fn numbers_of_query<const COUNT: usize>(query: Option<&str>, names: [&str; COUNT]) -> Option<[Option<u16>; COUNT]> {
    let mut numbers = [None; COUNT];
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, number) = part.split_once('=')?;
        let index = names.iter().position(|known| *known == name)?;
        numbers[index] = Some(number.parse().ok()?);
    }
    Some(numbers)
}
