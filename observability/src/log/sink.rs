//! Where lines go: a bounded buffer that requests fill and one thread empties.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use metrics::Counter;

/// Bytes that may wait for a slow reader; what comes after is lost and counted.
const MAX_BUFFERED_BYTES: usize = 1024 * 1024;

/// Between two writes, so that under load one write takes many lines and no request has to wake
/// the thread. The buffer holds what comes in the meantime: half a million lines a second.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);

/// Counts the lines that never reached the reader, by reason.
#[derive(Clone)]
pub(crate) struct DroppedLines {
    pub(crate) queue_full: Counter,
    pub(crate) write_failed: Counter,
}

impl DroppedLines {
    #[cfg(test)]
    pub(crate) fn unregistered() -> Self {
        Self { queue_full: Counter::noop(), write_failed: Counter::noop() }
    }
}

/// The buffer between those who log and the thread that writes.
pub(crate) struct NonBlockingWriter {
    state: Mutex<State>,
    /// Something to write, or someone waits for the end of it.
    work: Condvar,
    /// All that was there has been written.
    idle: Condvar,
    lost: DroppedLines,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    writer_waits: bool,
    writing: bool,
    flushing: bool,
}

impl NonBlockingWriter {
    /// Starts the thread that writes to `out`.
    pub(crate) fn start(
        out: impl Write + Send + 'static,
        lost: DroppedLines,
    ) -> io::Result<Arc<Self>> {
        let sink = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            lost,
        });
        let writer = Arc::clone(&sink);
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(out))?;
        Ok(sink)
    }

    /// Takes a whole line, its newline included. Never waits for the reader.
    pub(crate) fn write_line(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.buffer.len() + line.len() > MAX_BUFFERED_BYTES {
            drop(state);
            self.lost.queue_full.increment(1);
            return;
        }
        state.buffer.extend_from_slice(line);
        if state.writer_waits {
            state.writer_waits = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Waits until all that was pushed is written, at most `timeout`; says whether it is.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while !state.buffer.is_empty() || state.writing {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            state.flushing = true;
            self.work.notify_one();
            state = self.idle.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            if state.buffer.is_empty() {
                state.flushing = false;
                self.idle.notify_all();
            }
            while state.buffer.is_empty() {
                state.writer_waits = true;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.writer_waits = false;
            state.writing = true;
            lines.clear();
            lines.shrink_to(MAX_BUFFERED_BYTES / 8);
            std::mem::swap(&mut lines, &mut state.buffer);
            drop(state);

            self.write(&mut out, &lines);

            let state = self.lock();
            if !state.flushing {
                drop(self.work.wait_timeout(state, FLUSH_INTERVAL));
            }
        }
    }

    fn write(&self, out: &mut impl Write, mut rest: &[u8]) {
        while !rest.is_empty() {
            match out.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A reader that was handed to us in non-blocking mode.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(FLUSH_INTERVAL)
                }
                Ok(0) | Err(_) => {
                    let lines = rest.iter().filter(|&&byte| byte == b'\n').count();
                    self.lost.write_failed.increment(lines as u64);
                    return;
                }
            }
        }
        if out.flush().is_err() {
            // Stdout is line-buffered, so all of it has been offered to the reader by now.
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    fn counted() -> (DroppedLines, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (full, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let lost = DroppedLines {
            queue_full: Counter::from_arc(Arc::clone(&full)),
            write_failed: Counter::from_arc(Arc::clone(&failed)),
        };
        (lost, full, failed)
    }

    /// A reader that takes nothing until told.
    struct Stuck(mpsc::Receiver<()>, Arc<AtomicU64>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1
                .fetch_add(bytes.iter().filter(|&&b| b == b'\n').count() as u64, Ordering::SeqCst);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocked_reader_drops_lines() {
        let (lost, full, _) = counted();
        let (go, gate) = mpsc::channel();
        let written = Arc::new(AtomicU64::new(0));
        let writer = NonBlockingWriter::start(Stuck(gate, Arc::clone(&written)), lost).unwrap();
        let line = [b'x'; 1023].iter().copied().chain([b'\n']).collect::<Vec<_>>();
        let sent = 3 * (MAX_BUFFERED_BYTES / line.len()) as u64;
        for _ in 0..sent {
            writer.write_line(&line);
        }
        assert!(!writer.flush(Duration::ZERO));
        drop(go);
        assert!(writer.flush(Duration::from_secs(10)));
        let lost = full.load(Ordering::SeqCst);
        let written = written.load(Ordering::SeqCst);
        println!("{sent} lines for a stuck reader: {written} written later, {lost} lost");
        assert!(lost >= sent / 3, "{lost} of {sent} lost");
        assert_eq!(written + lost, sent);
    }

    #[test]
    fn lines_for_a_closed_reader_are_counted() {
        let (lost, _, failed) = counted();
        let writer = NonBlockingWriter::start(Closed, lost).unwrap();
        for _ in 0..10 {
            writer.write_line(b"line\n");
        }
        assert!(writer.flush(Duration::from_secs(10)));
        assert_eq!(failed.load(Ordering::SeqCst), 10);
    }
}
