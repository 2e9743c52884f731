//! Whether a node is alive, judged by its reports. Pure: time is an argument.
//!
//! In: reports and looks, each with the time. Out: a [`Life`]. A node that comes back after it was lost gets no new work until
//! it was there for a while, longer each time it is lost again: a flapping link moves containers once, not at every flap.
//!
//! Times are milliseconds in which the controller itself ran ([`Awake`]): a controller that was stopped for a minute has not
//! heard of anybody, and that is nobody's fault.

/// Between two reports of a node though nothing changed, in milliseconds.
pub const HEARTBEAT_MS: u64 = 2_000;
/// A node that has missed three reports gets no new work; milliseconds.
pub const SILENT_MS: u64 = 7_000;
/// A node that has been silent for this long is lost; milliseconds.
pub const LOST_MS: u64 = 10_000;
/// A node that has not reported since the controller started is lost after this long; milliseconds.
pub const EXPECTED_MS: u64 = 15_000;
/// It is lost after [`LOST_MS`] already if most nodes have been there for so long: then it is not the way to this controller.
/// Milliseconds.
pub const MOST_CAME_MS: u64 = 5_000;
/// How long a node that was lost has to be there without a gap before it gets new work; milliseconds. Doubles with each loss.
pub const STABLE_MS: u64 = 30_000;
/// The longest that it comes to: 16 minutes.
const MOST_STABLE_MS: u64 = STABLE_MS << 5;
/// A node that was there for so long without a gap starts with a clean slate; milliseconds.
const FORGIVEN_MS: u64 = 3_600_000;

/// How a node is, as far as its reports tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It has not reported since the controller started, and may still.
    Expected,
    /// It reports.
    Alive,
    /// It has missed some reports: it keeps what it has and gets nothing new.
    Silent,
    /// It has been silent for too long: what it had is started elsewhere.
    Lost,
    /// It was lost and reports again: it keeps what it still has, and gets nothing new until it is [`Life::Alive`].
    Returning,
}

impl Life {
    /// Whether it may get new containers.
    #[must_use]
    pub fn takes_work(self) -> bool {
        self == Self::Alive
    }

    /// Whether it reports.
    #[must_use]
    pub fn reports(self) -> bool {
        matches!(self, Self::Alive | Self::Silent | Self::Returning)
    }

    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expected => "expected",
            Self::Alive => "alive",
            Self::Silent => "silent",
            Self::Lost => "lost",
            Self::Returning => "returning",
        }
    }
}

/// The life of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    life: Life,
    /// Of its last report, or of the start.
    last: u64,
    /// Since when it reports without a gap.
    steady: u64,
    /// How often it was lost.
    losses: u32,
}

impl Liveness {
    /// A node that is known and has not reported yet.
    #[must_use]
    pub fn expected(now: u64) -> Self {
        Self { life: Life::Expected, last: now, steady: now, losses: 0 }
    }

    /// How it is.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life
    }

    /// How long it has not reported, in milliseconds.
    #[must_use]
    pub fn silence_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.last)
    }

    /// How long it has to be there without a gap before it gets new work.
    #[must_use]
    pub fn stable_ms(&self) -> u64 {
        (STABLE_MS << self.losses.saturating_sub(1).min(5)).min(MOST_STABLE_MS)
    }

    /// A report came. Gives whether its life is another one now.
    pub fn report(&mut self, now: u64) -> bool {
        let before = self.look(now, None);
        let gap = now.saturating_sub(self.last) >= SILENT_MS;
        self.last = now;
        let was = self.life;
        match self.life {
            Life::Expected => (self.life, self.steady) = (Life::Alive, now),
            Life::Lost => (self.life, self.steady) = (Life::Returning, now),
            Life::Silent => (self.life, self.steady) = (Life::Alive, now),
            Life::Returning if gap => self.steady = now,
            Life::Alive | Life::Returning => {}
        }
        before || was != self.life
    }

    /// Time has passed; `most_came` says since when most nodes have reported to this controller, if they have. Gives whether its
    /// life is another one now.
    pub fn look(&mut self, now: u64, most_came: Option<u64>) -> bool {
        let silence = now.saturating_sub(self.last);
        let steady = now.saturating_sub(self.steady);
        let was = self.life;
        match self.life {
            Life::Expected if silence >= EXPECTED_MS => self.life = Life::Lost,
            Life::Expected
                if silence >= LOST_MS && most_came.is_some_and(|since| now >= since + MOST_CAME_MS) =>
            {
                self.life = Life::Lost;
            }
            Life::Alive | Life::Silent | Life::Returning if silence >= LOST_MS => {
                self.life = Life::Lost;
                self.losses = self.losses.saturating_add(1);
            }
            Life::Alive if silence >= SILENT_MS => self.life = Life::Silent,
            Life::Alive if steady >= FORGIVEN_MS => self.losses = 0,
            Life::Returning if silence < SILENT_MS && steady >= self.stable_ms() => self.life = Life::Alive,
            _ => {}
        }
        was != self.life
    }
}

/// Counts the time in which the controller ran.
#[derive(Clone, Copy, Debug, Default)]
pub struct Awake {
    awake: u64,
    last: Option<u64>,
}

impl Awake {
    /// The longest step between two looks that counts, in milliseconds: they come every half second.
    const STEP: u64 = 1_500;

    /// The time, given that of the clock. Both in milliseconds.
    pub fn at(&mut self, clock: u64) -> u64 {
        let step = clock.saturating_sub(self.last.unwrap_or(clock));
        self.awake = self.awake.saturating_add(step.min(Self::STEP));
        self.last = Some(clock.max(self.last.unwrap_or(0)));
        self.awake
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
