//! Where events come from.
//!
//! What happens all the time (records of the kernel side, calls) is waited for here in one place. What happens seldom
//! (signals, changes of cgroups, the timer) has a task of its own that sends an event: waiting for each of them, every
//! time, would cost an action that waits more than all that the daemon does about it.

use std::{
    future::poll_fn,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender},
};

use super::KernelEvents;
use super::{DaemonError, Event};
use crate::{control::server, kernel};

/// Everything that the loop waits for.
pub(super) struct Sources {
    ring: AsyncFd<KernelEvents>,
    events: UnboundedReceiver<Event>,
    calls: Receiver<server::Incoming>,
    refused: Receiver<server::Refused>,
}

impl Sources {
    /// Takes over the receiving ends.
    ///
    /// # Errors
    /// The ring buffer cannot be watched.
    pub(super) fn new(
        ring: KernelEvents,
        events: UnboundedReceiver<Event>,
        calls: Receiver<server::Incoming>,
        refused: Receiver<server::Refused>,
    ) -> Result<Self, DaemonError> {
        let ring = readable(ring).map_err(|err| DaemonError::System("watch the ring buffer", err))?;
        Ok(Self { ring, events, calls, refused })
    }

    /// The kernel side's records.
    pub(super) fn ring(&mut self) -> &mut KernelEvents {
        self.ring.get_mut()
    }

    /// What happens next.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub(super) async fn next(&mut self) -> Result<Event, DaemonError> {
        poll_fn(|context| self.poll(context)).await.map_err(|err| DaemonError::System("wait for the ring buffer", err))
    }

    /// The ring buffer first. It cannot keep the others waiting: it is ready again only when the runtime has asked the
    /// system, which it does after they were looked at.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Event>> {
        if let Poll::Ready(guard) = self.ring.poll_read_ready_mut(context) {
            guard?.clear_ready();
            return Poll::Ready(Ok(Event::Kernel));
        }
        if let Poll::Ready(Some(event)) = self.events.poll_recv(context) {
            return Poll::Ready(Ok(event));
        }
        if let Poll::Ready(Some(call)) = self.calls.poll_recv(context) {
            return Poll::Ready(Ok(Event::Call(call)));
        }
        match ready!(self.refused.poll_recv(context)) {
            Some(refused) => Poll::Ready(Ok(Event::Refused(refused))),
            // The server has ended: nobody calls.
            None => Poll::Pending,
        }
    }
}

/// Waits for a descriptor to become readable.
fn readable<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptors given (owned ones, and those of ring buffers' maps) belong to `inner`, which neither
    // closes nor changes them while it lives, and it lives inside the result.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }.map_err(Into::into)
}

/// Has signals come as events.
///
/// # Errors
/// They cannot be taken.
pub(super) fn signals(events: &UnboundedSender<Event>) -> Result<(), DaemonError> {
    let take = |kind, event: fn() -> Event| {
        let mut signal = signal(kind).map_err(|err| DaemonError::System("take signals", err))?;
        let events = events.clone();
        tokio::spawn(async move { while signal.recv().await.is_some() && events.send(event()).is_ok() {} });
        Ok(())
    };
    take(SignalKind::terminate(), || Event::Stop("SIGTERM"))?;
    take(SignalKind::interrupt(), || Event::Stop("SIGINT"))?;
    take(SignalKind::hangup(), || Event::Reload)
}

/// Has changes of cgroups come as events.
///
/// # Errors
/// They cannot be watched.
pub(super) fn cgroups(watch: OwnedFd, events: &UnboundedSender<Event>) -> Result<(), DaemonError> {
    let watch = readable(watch).map_err(|err| DaemonError::System("watch cgroups", err))?;
    let events = events.clone();
    tokio::spawn(async move {
        loop {
            let event = match watch.readable().await {
                Ok(mut guard) => {
                    guard.clear_ready();
                    Event::Cgroups
                }
                Err(err) => Event::Broken("wait for cgroups", err),
            };
            let broken = matches!(event, Event::Broken(..));
            if events.send(event).is_err() || broken {
                return;
            }
        }
    });
    Ok(())
}

/// Has the kernel side's log written.
///
/// # Errors
/// It cannot be watched.
pub(super) fn kernel_log(log: kernel::KernelLog) -> Result<(), DaemonError> {
    let mut log = readable(log).map_err(|err| DaemonError::System("watch the kernel side's log", err))?;
    tokio::spawn(async move {
        loop {
            match log.readable_mut().await {
                Ok(mut guard) => {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "the kernel side's log cannot be waited for, and is not written any more");
                    return;
                }
            }
        }
    });
    Ok(())
}

/// The loop's only timer. It is set anew only when it has to fire sooner: most of what it is set for (tasks that are to
/// be resumed once more) is done long before, and setting a timer for each would cost more than one needless firing.
pub(super) struct Alarm {
    timer: Arc<AsyncFd<OwnedFd>>,
    set_ns: Option<u64>,
}

impl Alarm {
    /// Not set. It sends [`Event::Timer`].
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub(super) fn new(events: &UnboundedSender<Event>) -> Result<Self, DaemonError> {
        let make = || {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            readable(timerfd_create(TimerfdClockId::Boottime, flags)?)
        };
        let timer = Arc::new(make().map_err(|err| DaemonError::System("make a timer", err))?);
        let (firing, events) = (timer.clone(), events.clone());
        tokio::spawn(async move {
            loop {
                let event = match fire(&firing).await {
                    Ok(()) => Event::Timer,
                    Err(err) => Event::Broken("wait for a timer", err),
                };
                let broken = matches!(event, Event::Broken(..));
                if events.send(event).is_err() || broken {
                    return;
                }
            }
        });
        Ok(Self { timer, set_ns: None })
    }

    /// Fires at this time of `CLOCK_BOOTTIME` in nanoseconds, or before.
    ///
    /// # Errors
    /// The kernel does not set it.
    pub(super) fn set(&mut self, at_ns: Option<u64>) -> Result<(), DaemonError> {
        let Some(at_ns) = at_ns else { return Ok(()) };
        if self.set_ns.is_some_and(|set_ns| set_ns <= at_ns) {
            return Ok(());
        }
        let time = Duration::from_nanos(at_ns.max(1));
        let value = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: i64::from(time.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)
            .map_err(|err| DaemonError::System("set a timer", err.into()))?;
        self.set_ns = Some(at_ns);
        Ok(())
    }

    /// It has fired, and is not set any more.
    pub(super) fn fired(&mut self) {
        self.set_ns = None;
    }
}

/// Ends when the timer has fired.
async fn fire(timer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut guard = timer.readable().await?;
        let mut count = [0; 8];
        let read = rustix::io::read(guard.get_inner(), &mut count);
        guard.clear_ready();
        match read {
            Ok(_) => return Ok(()),
            // Not yet, after all.
            Err(rustix::io::Errno::AGAIN) => {}
            Err(err) => return Err(err.into()),
        }
    }
}
