//! Generic netlink, as far as WireGuard needs it: netlink(7), the kernel's `Documentation/netlink/specs/genetlink.yaml`.
//!
//! In: a family's name, a command, attributes. Out: the attributes of the kernel's answers. The kernel answers within the call, so
//! nothing here waits; nothing is written to any log, for a private key goes through.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const HEADER: usize = 16;
const GENL_HEADER: usize = 4;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const LEAST_FAMILY: u16 = 16;
/// The family that knows the others' numbers, its request, and the attributes of that.
const CONTROL: (u16, u8, u16, u16) = (LEAST_FAMILY, 3, 1, 2);
/// Bits of an attribute's kind that are no part of it.
const FLAGS_OF_KIND: u16 = 0xc000;
/// Marks an attribute that holds others.
pub(super) const NESTED: u16 = 0x8000;
/// Longest datagram that the kernel sends: it fills pages of its own choice, at most 32 KiB.
const LARGEST: usize = 64 << 10;
/// Most answers to one question: a thousand nodes, many times over.
const MOST: usize = 4096;

/// Attributes on their way to the kernel.
#[derive(Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    /// These and one more. Longer ones than netlink can say are an error of the caller, and are left out.
    #[must_use]
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let Ok(length) = u16::try_from(value.len() + 4) else { return self };
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// These and one that holds others.
    #[must_use]
    pub(super) fn nest(self, kind: u16, inner: &Self) -> Self {
        self.with(kind | NESTED, &inner.0)
    }
}

/// The attributes in `bytes`, kind and value; what is cut short ends them.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !FLAGS_OF_KIND;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Two bytes at `at`, in the machine's order.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A message in the kernel's form.
fn message(kind: u16, flags: u16, sequence: u32, command: u8, attributes: &Attributes) -> Vec<u8> {
    let length = HEADER + GENL_HEADER + attributes.0.len();
    let mut out = Vec::with_capacity(length);
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((REQUEST | flags).to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]); // the kernel fills in who asks
    out.extend([command, 1, 0, 0]);
    out.extend(&attributes.0);
    out
}

/// What one datagram says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// There is more to come.
    More,
    /// That was all.
    End,
    /// It refused, for this reason (errno(3)).
    Refused(i32),
}

/// Takes answers to `sequence` out of a datagram.
fn take(datagram: &[u8], sequence: u32, answers: &mut Vec<Vec<u8>>) -> Said {
    let mut rest = datagram;
    while let (Some(length), Some(kind), Some(of)) = (u32_at(rest, 0), u16_at(rest, 4), u32_at(rest, 8)) {
        let Some(body) = usize::try_from(length).ok().and_then(|length| rest.get(HEADER..length)) else {
            break;
        };
        if of == sequence {
            match (kind, u32_at(body, 0).map(u32::cast_signed)) {
                (ERROR, Some(0)) | (DONE, None | Some(0..)) => return Said::End,
                (ERROR | DONE, Some(code)) => return Said::Refused(code.saturating_neg()),
                (LEAST_FAMILY.., _) => answers.extend(body.get(GENL_HEADER..).map(<[u8]>::to_vec)),
                _ => {}
            }
        }
        rest = rest.get((HEADER + body.len()).next_multiple_of(4)..).unwrap_or_default();
    }
    Said::More
}

/// A conversation with one family, in the network namespace of whoever opened it.
pub(super) struct Family {
    socket: OwnedFd,
    id: u16,
    sequence: u32,
}

impl Family {
    /// `NotFound` if the kernel has no such family.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let (family, protocol) = (AddressFamily::Netlink, SockProtocol::NetlinkGeneric);
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // It answers at once; a kernel that does not is not waited for.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let (control, get, id, called) = CONTROL;
        let mut family = Self { socket, id: control, sequence: 0 };
        let question = Attributes::default().with(called, &[name.as_bytes(), &[0]].concat());
        let answers = family.ask(get, 0, &question)?;
        let found = answers.iter().flat_map(|answer| attributes(answer)).find(|(kind, _)| *kind == id);
        let number = found.and_then(|(_, value)| u16_at(value, 0));
        family.id = number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(family)
    }

    /// Has the kernel do something.
    pub(super) fn act(&mut self, command: u8, attributes: &Attributes) -> io::Result<()> {
        self.ask(command, 0, attributes).map(drop)
    }

    /// Everything the kernel has to say.
    pub(super) fn dump(&mut self, command: u8, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        self.ask(command, DUMP, attributes)
    }

    fn ask(&mut self, command: u8, flags: u16, attributes: &Attributes) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(self.id, flags | ACK, self.sequence, command, attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let (mut answers, mut buffer) = (Vec::new(), vec![0; LARGEST]);
        while answers.len() < MOST {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            match take(buffer.get(..length).unwrap_or_default(), self.sequence, &mut answers) {
                Said::More => {}
                Said::End => return Ok(answers),
                Said::Refused(code) => return Err(io::Error::from_raw_os_error(code)),
            }
        }
        Err(io::Error::other("the kernel does not come to an end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernel_knows_its_own_families() {
        let control = Family::open("nlctrl").expect("every kernel has it");
        assert_eq!(control.id, LEAST_FAMILY);
        let none = Family::open("no_such_family").map(|_| ()).expect_err("no kernel has it");
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let inner = Attributes::default().with(1, b"abc").with(2, &7_u16.to_ne_bytes());
        let all = Attributes::default().with(9, &[1; 32]).nest(8, &inner);
        let read: Vec<_> = attributes(&all.0).collect();
        assert_eq!((read[0], read[1].0), ((9, [1_u8; 32].as_slice()), 8));
        let nested: Vec<_> = attributes(read[1].1).collect();
        assert_eq!(nested, [(1, b"abc".as_slice()), (2, &7_u16.to_ne_bytes())]);
        let mut answers = Vec::new();
        let message = message(20, 0, 3, 1, &all);
        assert_eq!(take(&message, 3, &mut answers), Said::More);
        assert_eq!(answers, [all.0]);
        assert_eq!(take(&message, 4, &mut answers), Said::More, "somebody else's");
        assert_eq!(answers.len(), 1);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_is_a_panic_or_without_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            assert!(attributes(&bytes).count() <= bytes.len());
            let mut answers = Vec::new();
            take(&bytes, 0, &mut answers);
            assert!(answers.len() <= bytes.len());
        }
    }
}
