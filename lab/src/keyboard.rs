//! Single keys from the terminal.
//!
//! crossterm reads the keys, but not in its raw mode. Raw mode also disables output processing and
//! the keys that send signals. Cbreak mode keeps both: newlines return the carriage, also those of a
//! panic, Ctrl-C sends SIGINT, and Ctrl-Z sends SIGTSTP.

use std::convert::Infallible;
use std::io::IsTerminal;

use crossterm::event::{Event, EventStream};
use futures_util::StreamExt;
use futures_util::future::OptionFuture;

/// Reader of the keys that a user presses. Restores the terminal when dropped.
#[derive(Debug)]
pub(crate) struct KeyReader {
    /// `None` without a terminal, and while the process is in the background.
    events: Option<EventStream>,
    mode: Option<CbreakMode>,
}

impl KeyReader {
    /// Creates a reader without keys unless stdin is a terminal and the process is in its foreground.
    pub(crate) fn new() -> Self {
        let mode = std::io::stdin().is_terminal().then(CbreakMode::enter).flatten();
        Self { events: mode.is_some().then(EventStream::new), mode }
    }

    /// Returns `true` if the terminal is read.
    pub(crate) fn is_available(&self) -> bool {
        self.events.is_some()
    }

    /// Waits for the next key and, meanwhile, suspends and resumes the process. Cancel safe.
    pub(crate) async fn next(&mut self) -> char {
        let Some(mode) = &mut self.mode else {
            return std::future::pending().await;
        };
        loop {
            let event = self.events.as_mut().map(StreamExt::next);
            tokio::select! {
                Some(event) = OptionFuture::from(event) => match event {
                    Some(Ok(event)) => if let Some(key) = plain_key(&event) {
                        return key;
                    },
                    Some(Err(_)) | None => self.events = None,
                },
                is_foreground = mode.changed() => {
                    self.events = is_foreground.then(EventStream::new);
                }
            }
        }
    }

    /// Ignores all keys.
    pub(crate) async fn ignore_all(&mut self) -> Infallible {
        loop {
            self.next().await;
        }
    }
}

/// Returns the character of a key that was pressed without modifiers.
fn plain_key(event: &Event) -> Option<char> {
    let key = event.as_key_press_event().filter(|key| key.modifiers.is_empty())?;
    key.code.as_char()
}

#[cfg(unix)]
use unix::CbreakMode;

#[cfg(unix)]
mod unix {
    use rustix::process::{Signal, getpgrp, getpid, getsid, kill_process};
    use rustix::stdio::stdin;
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
    use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

    /// Terminal mode that delivers keys immediately and does not echo them.
    #[derive(Debug)]
    pub(super) struct CbreakMode {
        original: Termios,
        suspend: SignalStream,
        resume: SignalStream,
    }

    impl CbreakMode {
        /// Returns `None` if the process is in the background.
        pub(super) fn enter() -> Option<Self> {
            let listen = |to: Signal| signal(SignalKind::from_raw(to.as_raw())).ok();
            let original = tcgetattr(stdin()).ok().filter(|_| is_foreground())?;
            let (suspend, resume) = (listen(Signal::TSTP)?, listen(Signal::CONT)?);
            let mode = Self { original, suspend, resume };
            mode.apply().then_some(mode)
        }

        /// Waits until the process is suspended or resumed. Returns `true` if it may read the terminal.
        /// Cancel safe.
        pub(super) async fn changed(&mut self) -> bool {
            tokio::select! {
                _ = self.suspend.recv() => {
                    // No shell could resume a session leader. The default action ignores the signal.
                    if getsid(None) == Ok(getpid()) {
                        return true;
                    }
                    set(&self.original);
                    // SIGTSTP does not stop the process because it has a handler.
                    let _ = kill_process(getpid(), Signal::STOP);
                    false
                }
                _ = self.resume.recv() => self.apply(),
            }
        }

        fn apply(&self) -> bool {
            let mut cbreak = self.original.clone();
            cbreak.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            set(&cbreak)
        }
    }

    impl Drop for CbreakMode {
        fn drop(&mut self) {
            set(&self.original);
        }
    }

    /// The system stops a background process that changes the mode of its terminal.
    fn set(mode: &Termios) -> bool {
        is_foreground() && tcsetattr(stdin(), OptionalActions::Now, mode).is_ok()
    }

    fn is_foreground() -> bool {
        tcgetpgrp(stdin()) == Ok(getpgrp())
    }
}

/// Windows delivers keys to crossterm in every console mode.
#[cfg(not(unix))]
#[derive(Debug)]
struct CbreakMode;

#[cfg(not(unix))]
impl CbreakMode {
    fn enter() -> Option<Self> {
        Some(Self)
    }

    async fn changed(&mut self) -> bool {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    #[test]
    fn key_with_modifier_is_ignored() {
        let press = |modifiers| Event::Key(KeyEvent::new(KeyCode::Char('a'), modifiers));
        assert_eq!(plain_key(&press(KeyModifiers::NONE)), Some('a'));
        assert_eq!(plain_key(&press(KeyModifiers::ALT)), None);
    }
}
