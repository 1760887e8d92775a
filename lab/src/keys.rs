//! Keys from a terminal, one at a time; without a terminal there are none.

use std::io::{IsTerminal, Read};

use tokio::sync::mpsc;

/// Keys as they are pressed, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Keys {
    received: mpsc::Receiver<char>,
    // Keeps the channel open where there is no terminal, so that waiting for a key waits for ever.
    _sender: mpsc::Sender<char>,
    #[cfg(unix)]
    _mode: Option<unix::KeyMode>,
    /// Whether there is a terminal to read from.
    pub(crate) available: bool,
}

impl Keys {
    pub(crate) fn read() -> Self {
        let (sender, received) = mpsc::channel(16);
        #[cfg(unix)]
        let _mode = unix::KeyMode::set();
        #[cfg(unix)]
        let available = _mode.is_some();
        // Without a key mode a key counts once Enter follows it.
        #[cfg(not(unix))]
        let available = std::io::stdin().is_terminal();
        if available {
            let keys = sender.clone();
            std::thread::spawn(move || {
                for byte in std::io::stdin().lock().bytes().map_while(Result::ok) {
                    if keys.blocking_send(char::from(byte)).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            received,
            _sender: sender,
            #[cfg(unix)]
            _mode,
            available,
        }
    }

    pub(crate) async fn next(&mut self) -> char {
        match self.received.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

#[cfg(unix)]
mod unix {
    use super::IsTerminal;
    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

    /// The terminal gives each key at once and shows none; signals and output stay as they are. Set
    /// back when dropped.
    #[derive(Debug)]
    pub(super) struct KeyMode {
        before: Termios,
    }

    impl KeyMode {
        /// `None` without a terminal, or where it belongs to somebody else now: a background job that
        /// touches its terminal is stopped.
        pub(super) fn set() -> Option<Self> {
            if !std::io::stdin().is_terminal() {
                return None;
            }
            let stdin = rustix::stdio::stdin();
            if rustix::termios::tcgetpgrp(stdin).ok()? != rustix::process::getpgrp() {
                return None;
            }
            let before = tcgetattr(stdin).ok()?;
            let mut keys = before.clone();
            keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(stdin, OptionalActions::Now, &keys).ok()?;
            Some(Self { before })
        }
    }

    impl Drop for KeyMode {
        fn drop(&mut self) {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
        }
    }
}
