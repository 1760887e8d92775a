//! Non-blocking writer: a bounded buffer that requests fill and one thread writes to stdout.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::metrics::DroppedLines;

/// Maximum size of the buffer. Lines that do not fit are dropped and counted.
const MAX_BUFFERED_BYTES: usize = 1024 * 1024;

/// Pause between two writes, so that under load one write takes many lines and a request rarely wakes the
/// thread. The buffer holds what arrives in the meantime, at half a million lines per second.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);

/// Maximum size of one write, so that a flush observes the progress of a slow reader.
const MAX_WRITE: usize = 64 * 1024;

/// Time after which a flush ends if stdout accepts nothing.
const STALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Returns stdout without the buffer of the standard library, which reports bytes as written that it keeps
/// after a failed write.
#[cfg(unix)]
pub(crate) fn unbuffered_stdout() -> io::Result<impl Write + Send + 'static> {
    use std::os::fd::AsFd;
    io::stdout().as_fd().try_clone_to_owned().map(std::fs::File::from)
}

#[cfg(not(unix))]
pub(crate) fn unbuffered_stdout() -> io::Result<impl Write + Send + 'static> {
    Ok(io::stdout())
}

/// Bounded buffer of log lines, and the thread that writes them.
pub(crate) struct NonBlockingWriter {
    state: Mutex<State>,
    /// Notified when there are lines to write or a flush begins.
    work: Condvar,
    /// Notified when all lines are written.
    idle: Condvar,
    /// Bytes that stdout has accepted, with wrap-around.
    written_bytes: AtomicUsize,
    dropped: DroppedLines,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    is_writer_waiting: bool,
    is_writing: bool,
    is_flushing: bool,
}

impl NonBlockingWriter {
    /// Starts the thread that writes to `out`.
    pub(crate) fn start(
        out: impl Write + Send + 'static,
        dropped: DroppedLines,
    ) -> io::Result<Arc<Self>> {
        let writer = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            idle: Condvar::new(),
            written_bytes: AtomicUsize::new(0),
            dropped,
        });
        let thread_writer = Arc::clone(&writer);
        thread::Builder::new().name("log".to_owned()).spawn(move || thread_writer.run(out))?;
        Ok(writer)
    }

    /// Queues a line, which includes its newline. Never waits for the reader of stdout.
    pub(crate) fn write_line(&self, line: &[u8]) {
        if line.len() > MAX_BUFFERED_BYTES {
            self.dropped.too_long.increment(1);
            return;
        }
        let mut state = self.state.lock();
        if state.buffer.len() + line.len() > MAX_BUFFERED_BYTES {
            drop(state);
            self.dropped.queue_full.increment(1);
            return;
        }
        state.buffer.extend_from_slice(line);
        if state.is_writer_waiting {
            state.is_writer_waiting = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Waits at most `timeout` until all queued lines are written, and less if stdout blocks. Returns
    /// `true` if they are written.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let started = Instant::now();
        let mut state = self.state.lock();
        while !state.buffer.is_empty() || state.is_writing {
            state.is_flushing = true;
            self.work.notify_one();
            let written_bytes = self.written_bytes.load(Ordering::Relaxed);
            let rest = timeout.saturating_sub(started.elapsed());
            let is_late = self.idle.wait_for(&mut state, rest.min(STALL_TIMEOUT)).timed_out();
            let is_stalled = written_bytes == self.written_bytes.load(Ordering::Relaxed);
            if is_late && (is_stalled || started.elapsed() >= timeout) {
                return false;
            }
        }
        true
    }

    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        let mut is_line_torn = false;
        loop {
            let mut state = self.state.lock();
            state.is_writing = false;
            if state.buffer.is_empty() {
                state.is_flushing = false;
                self.idle.notify_all();
            }
            while state.buffer.is_empty() {
                state.is_writer_waiting = true;
                self.work.wait(&mut state);
            }
            state.is_writer_waiting = false;
            state.is_writing = true;
            lines.clear();
            lines.shrink_to(MAX_BUFFERED_BYTES / 8);
            std::mem::swap(&mut lines, &mut state.buffer);
            drop(state);

            self.write_lines(&mut out, &lines, &mut is_line_torn);

            let mut state = self.state.lock();
            if !state.is_flushing {
                self.work.wait_for(&mut state, FLUSH_INTERVAL);
            }
        }
    }

    /// Writes `lines`. Ends a torn line first, so that no line is appended to it.
    fn write_lines(&self, out: &mut impl Write, lines: &[u8], is_line_torn: &mut bool) {
        if *is_line_torn {
            *is_line_torn = !self.write_bytes(out, b"\n").is_empty();
        }
        let dropped = if *is_line_torn { lines } else { self.write_bytes(out, lines) };
        let written = &lines[..lines.len() - dropped.len()];
        if let Some(&last) = written.last() {
            *is_line_torn = last != b'\n';
        }
        let dropped = dropped.iter().filter(|&&byte| byte == b'\n').count();
        self.dropped.write_failed.increment(dropped as u64);
        // On some platforms stdout is buffered.
        let _ = out.flush();
    }

    /// Writes `bytes` and returns those that remain when a write fails.
    fn write_bytes<'a>(&self, out: &mut impl Write, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            match out.write(&bytes[..bytes.len().min(MAX_WRITE)]) {
                Ok(written @ 1..) => {
                    self.written_bytes.fetch_add(written, Ordering::Relaxed);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Stdout is in non-blocking mode if the parent process opened it so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::sleep(FLUSH_INTERVAL);
                }
                Ok(0) | Err(_) => break,
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use metrics::Counter;

    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;

    fn counting() -> (DroppedLines, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (full, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let dropped = DroppedLines {
            queue_full: Counter::from_arc(Arc::clone(&full)),
            write_failed: Counter::from_arc(Arc::clone(&failed)),
            too_long: Counter::noop(),
        };
        (dropped, full, failed)
    }

    /// Blocks until its channel is closed, and counts lines.
    struct Blocked(mpsc::Receiver<()>, Arc<AtomicU64>);
    impl Write for Blocked {
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
        let (dropped, full, _) = counting();
        let (gate_tx, gate) = mpsc::channel();
        let written = Arc::new(AtomicU64::new(0));
        let writer =
            NonBlockingWriter::start(Blocked(gate, Arc::clone(&written)), dropped).unwrap();
        let line = [b'x'; 1023].iter().copied().chain([b'\n']).collect::<Vec<_>>();
        let sent = 3 * (MAX_BUFFERED_BYTES / line.len()) as u64;
        for _ in 0..sent {
            writer.write_line(&line);
        }
        assert!(!writer.flush(Duration::ZERO));
        drop(gate_tx);
        assert!(writer.flush(Duration::from_secs(10)));
        let dropped = full.load(Ordering::SeqCst);
        let written = written.load(Ordering::SeqCst);
        println!("{sent} lines for a stuck reader: {written} written later, {dropped} dropped");
        assert!(dropped >= sent / 3, "{dropped} of {sent} dropped");
        assert_eq!(written + dropped, sent);
    }

    #[test]
    fn closed_reader_drops_lines() {
        let (dropped, _, failed) = counting();
        let writer = NonBlockingWriter::start(Closed, dropped).unwrap();
        for _ in 0..10 {
            writer.write_line(b"line\n");
        }
        assert!(writer.flush(Duration::from_secs(10)));
        assert_eq!(failed.load(Ordering::SeqCst), 10);
    }
}
