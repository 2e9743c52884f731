//! Lines of the access logs of all proxies.
//!
//! In: what to ask the agents for. Out: whole lines; the first ones by their time, as far as they say it, later ones as they come.

use crate::Platform;
use crate::errors::unavailable;
use berth_model::api::ApiError;
use berth_wire::Client;
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// What one node may answer, in bytes.
const LARGEST: usize = 64 << 20;
/// How one line of JSON begins, before its time.
const TIME: &[u8] = b"{\"time\":\"";

/// The answers of the agents that can be reached.
async fn answers(platform: &Platform, path: &str) -> Result<Vec<Response<Incoming>>, ApiError> {
    let asked = |agent: Client| async move { agent.call(Method::GET, path, None::<&()>).await };
    Ok(platform.ask_all(asked).await?.into_iter().map(|(_, answer)| answer).collect())
}

/// The last `count` lines that `path` asks for.
pub(crate) async fn read(platform: &Platform, path: &str, count: usize) -> Result<Vec<u8>, ApiError> {
    let answers = answers(platform, path).await?;
    let several = answers.len() > 1;
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for answer in answers {
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let bytes = body.map_err(|error| unavailable(format!("a node's access log broke off: {error}")))?;
        lines.extend(bytes.to_bytes().split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec));
    }
    if several {
        lines.sort_by(|one, other| time(one).cmp(time(other)));
    }
    Ok(lines.split_off(lines.len().saturating_sub(count)).concat())
}

/// When a line was written, as text that sorts; nothing where it says it in another way.
fn time(line: &[u8]) -> &[u8] {
    let rest = line.strip_prefix(TIME).unwrap_or_default();
    rest.split(|byte| *byte == b'"').next().unwrap_or_default()
}

/// What `path` asks for as it comes, until the receiver is dropped or every node has broken off.
pub(crate) async fn follow(platform: &Platform, path: &str) -> Result<mpsc::Receiver<Bytes>, ApiError> {
    let (to, news) = mpsc::channel(64);
    for answer in answers(platform, path).await? {
        let to = to.clone();
        tokio::spawn(async move {
            let mut body = answer.into_body();
            let mut part: Vec<u8> = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                part.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
                let Some(end) = part.iter().rposition(|byte| *byte == b'\n') else { continue };
                let whole: Vec<u8> = part.drain(..=end).collect();
                if to.send(whole.into()).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(news)
}
