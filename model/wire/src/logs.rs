//! Lines of several sources, put into the order of their time.

use berth_model::container::LogLine;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long lines wait for others that are older.
const ORDER: Duration = Duration::from_millis(20);
/// Lines a batch.
const MOST: usize = 1000;

/// `first` and what comes within the next 20 ms, 1,000 lines at most, the oldest first.
pub async fn batch(first: LogLine, unordered: &mut mpsc::Receiver<LogLine>) -> Vec<LogLine> {
    let mut batch = vec![first];
    let more = async {
        while batch.len() < MOST
            && let Some(line) = unordered.recv().await
        {
            batch.push(line);
        }
    };
    // Whatever was pushed before the time is over stays in the batch.
    let _ = tokio::time::timeout(ORDER, more).await;
    batch.sort_by_key(|line| line.at_us);
    batch
}
