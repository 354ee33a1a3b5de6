import CLibc
import Glibc

/// Standard output and input as a terminal in the hands of a program that draws: no echo, key by key, its own screen.
final class Terminal {
    private var before = termios()

    /// Nil when standard input or output is no terminal.
    init?() {
        guard isatty(0) == 1, isatty(1) == 1, tcgetattr(0, &before) == 0 else { return nil }
        var raw = before
        // ISIG too: control-C is a key, so that the screen is always given back.
        raw.c_lflag &= ~tcflag_t(ICANON | ECHO | ISIG)
        tcsetattr(0, TCSANOW, &raw)
        for number in [SIGTERM, SIGHUP] { signal(number) { _ in ended = 1 } }
        write("\u{1b}[?1049h\u{1b}[?25l")
    }

    func restore() {
        write("\u{1b}[?25h\u{1b}[?1049l")
        tcsetattr(0, TCSANOW, &before)
    }

    var size: (width: Int, height: Int) {
        var size = winsize()
        guard ioctl(1, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0 else { return (80, 24) }
        return (Int(size.ws_col), Int(size.ws_row))
    }

    func draw(_ lines: [String]) {
        write("\u{1b}[H" + lines.map { $0 + "\u{1b}[K" }.joined(separator: "\r\n") + "\u{1b}[J")
    }

    enum Event {
        case key(UInt8)
        case timeout
        case end
    }

    /// The next key within `milliseconds`.
    func wait(milliseconds: Int) -> Event {
        var entry = pollfd(fd: 0, events: Int16(POLLIN), revents: 0)
        let ready = poll(&entry, 1, CInt(clamping: milliseconds))
        if ended != 0 { return .end }
        guard ready > 0 else { return .timeout }
        var byte: UInt8 = 0
        return read(0, &byte, 1) == 1 ? .key(byte) : .end
    }

    private func write(_ text: String) { emit(text) }
}

/// Set by SIGTERM and SIGHUP while a terminal is held.
nonisolated(unsafe) private var ended: sig_atomic_t = 0

/// Text to standard output at once, whole; whether it could be written.
@discardableResult
func emit(_ text: String) -> Bool {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(1, $0.baseAddress, $0.count) }
        if count < 0, libc_errno() == EINTR { continue }
        guard count > 0 else { return false }
        rest = rest.dropFirst(count)
    }
    return true
}
