//! Metrics: what containers use, now and lately.
//!
//! In: counters an agent read from the kernel. Out: [`Samples`] for the controller, [`Usage`] and [`MetricPoint`]s for people.
//! Counters only grow within one life of a container.

use crate::{AppName, ContainerId, NodeName, ProcessType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One container's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// CPU time used, in microseconds.
    pub cpu_us: u64,
    /// Memory in use without reclaimable cache, in bytes.
    pub memory_bytes: u64,
    /// Its limit, if it has one.
    pub memory_limit_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Bytes received, of the whole container.
    pub net_received: u64,
    /// Bytes sent.
    pub net_sent: u64,
    /// Bytes read from disks; `None` where the kernel does not count it.
    #[serde(default)]
    pub io_read: Option<u64>,
    /// Bytes written to disks.
    #[serde(default)]
    pub io_written: Option<u64>,
}

/// One container with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Whose.
    pub app: AppName,
    /// Which process type.
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Starts so far.
    pub incarnation: u32,
    /// Its counters.
    pub counters: Counters,
}

/// What one node's containers used, as of one moment. The whole of it each time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// Who reports.
    pub node: NodeName,
    /// When; milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Every container that runs.
    pub containers: BTreeMap<ContainerId, Sample>,
    /// How drains do, by id.
    #[serde(default)]
    pub drains: BTreeMap<String, crate::logs::DrainStatus>,
    /// Containers that ended for want of memory since the agent started, by app.
    #[serde(default)]
    pub out_of_memory: BTreeMap<AppName, u64>,
    /// Space of the file system that holds the agent's data, in bytes.
    #[serde(default)]
    pub disk_total: u64,
    /// What of it is free.
    #[serde(default)]
    pub disk_free: u64,
}

/// What a container uses now. `GET /v1/top` (a list).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Whose.
    #[schema(value_type = String)]
    pub app: AppName,
    /// Which process type.
    #[schema(value_type = String)]
    pub process: ProcessType,
    /// Which one of them.
    pub ordinal: u32,
    /// Its id.
    #[schema(value_type = String)]
    pub container: ContainerId,
    /// Where it runs.
    #[schema(value_type = String)]
    pub node: NodeName,
    /// Thousandths of a CPU, over the last seconds.
    pub cpu_millis: u64,
    /// Bytes received a second.
    pub net_in: u64,
    /// Bytes sent a second.
    pub net_out: u64,
    /// Bytes read from disks a second.
    pub io_in: u64,
    /// Bytes written to disks a second.
    pub io_out: u64,
    /// What was counted.
    pub counters: Counters,
    /// Starts again after the first.
    pub restarts: u32,
}

/// What an app used and got within some seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    /// Where it begins; seconds since the Unix epoch.
    pub at: i64,
    /// Containers that ran.
    pub containers: u32,
    /// Thousandths of a CPU, all containers together.
    pub cpu_millis: u64,
    /// Memory of all containers together, the most within the time, in bytes.
    pub memory_bytes: u64,
    /// Bytes received a second, of all containers.
    pub net_in: u64,
    /// Bytes sent a second.
    pub net_out: u64,
    /// Bytes read from disks a second.
    pub io_in: u64,
    /// Bytes written to disks a second.
    pub io_out: u64,
    /// Requests.
    pub requests: u64,
    /// Answered with 2xx.
    pub success: u64,
    /// Answered with 3xx.
    pub redirect: u64,
    /// Answered with 4xx.
    pub client_error: u64,
    /// Answered with 5xx, or not at all.
    pub server_error: u64,
    /// Median latency, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// 95 % were faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_us: Option<u64>,
    /// 99 % were faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
}

/// `GET /v1/apps/{app}/metrics`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AppMetrics {
    /// Whose.
    #[schema(value_type = String)]
    pub app: AppName,
    /// What each container uses now.
    pub now: Vec<Usage>,
    /// The last hour, 10 s a point, oldest first; begins anew when the controller does.
    pub tens: Vec<MetricPoint>,
    /// The last 24 hours, 1 min a point, oldest first.
    pub minutes: Vec<MetricPoint>,
}
