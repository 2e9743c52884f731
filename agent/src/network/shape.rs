//! How fast a device sends: a token bucket in the kernel (tc-tbf(8)) as its root queueing discipline.
//!
//! In: a device's index and kbit/s. Out: the kernel's state. A packet that finds no tokens waits; senders inside a
//! container see that as a full socket buffer, senders outside as a full queue, which TCP answers by going slower.

use futures_util::StreamExt;
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use rtnetlink::{Error, Handle};

/// What may be sent at once after a silence, in bytes: 10 ms' worth, but never less than a few large frames, or timers
/// would set the rate.
fn burst(bytes_per_s: u64) -> u32 {
    u32::try_from(bytes_per_s / 100).unwrap_or(u32::MAX).clamp(16 * 1024, 16 << 20)
}

/// What waits at most, in bytes: 100 ms' worth. Beyond it packets are dropped.
fn backlog(bytes_per_s: u64) -> u32 {
    u32::try_from(bytes_per_s / 10).unwrap_or(u32::MAX).clamp(64 * 1024, 64 << 20)
}

/// `TCA_TBF_*` of linux/pkt_sched.h.
mod attribute {
    pub(super) const PARMS: u16 = 1;
    pub(super) const RATE64: u16 = 4;
    pub(super) const BURST: u16 = 6;
}

/// `struct tc_tbf_qopt`: two `tc_ratespec`s of 12 bytes (ours, and no peak rate), then limit, buffer, mtu. The second byte
/// of a ratespec says Ethernet, so that no table of packet times is wanted; the last four are bytes a second.
fn parameters(bytes_per_s: u64) -> Vec<u8> {
    const ETHERNET: u8 = 1;
    let mut bytes = vec![0, ETHERNET, 0, 0, 0, 0, 0, 0];
    bytes.extend(u32::try_from(bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend([0; 12]);
    bytes.extend(backlog(bytes_per_s).to_ne_bytes());
    bytes.extend([0; 8]); // the burst comes in bytes, in an attribute of its own
    bytes
}

/// Sets the rate of the device, or takes it away.
pub(super) async fn set(handle: &Handle, index: i32, kbit: Option<u64>) -> Result<(), Error> {
    let mut message = TcMessage::with_index(index);
    message.header.parent = TcHandle::ROOT;
    let request = match kbit {
        Some(kbit) => {
            let bytes_per_s = kbit.saturating_mul(125).max(1);
            let other = |kind, bytes: Vec<u8>| TcOption::Other(DefaultNla::new(kind, bytes));
            message.attributes = vec![
                TcAttribute::Kind("tbf".to_owned()),
                TcAttribute::Options(vec![
                    other(attribute::PARMS, parameters(bytes_per_s)),
                    other(attribute::RATE64, bytes_per_s.to_ne_bytes().to_vec()),
                    other(attribute::BURST, burst(bytes_per_s).to_ne_bytes().to_vec()),
                ]),
            ];
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            request
        }
        None => {
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelQueueDiscipline(message));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
            request
        }
    };
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload {
            // A device without a discipline of its own has nothing to take away.
            let absent = matches!(error.raw_code().abs(), libc::ENOENT | libc::EINVAL);
            if error.code.is_some() && !(kbit.is_none() && absent) {
                return Err(Error::NetlinkError(error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_what_its_header_says() {
        let bytes = parameters(1_250_000);
        assert_eq!(bytes.len(), 36);
        assert_eq!(bytes[8..12], 1_250_000_u32.to_ne_bytes());
        assert_eq!(bytes[24..28], 125_000_u32.to_ne_bytes());
        assert_eq!(parameters(u64::MAX)[8..12], u32::MAX.to_ne_bytes());
    }
}
