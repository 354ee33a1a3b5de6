import CLibc
import Libc

/// What the environment says, read once when the library is loaded: nginx empties its workers' environment, others rewrite it.
struct Settings {
    /// `SAN=off`: the library forwards every call and keeps no state.
    var isOn = true
    /// `SAN_LOG=debug` (standard error) or `SAN_LOG=debug:FILE`; -1 when silent.
    var log: CInt = -1
    /// Calls and bytes on TCP after which a switch-over is taken to pay; `SAN_AFTER_CALLS`, `SAN_AFTER_BYTES`.
    var afterCalls: UInt64 = 8
    var afterBytes: UInt64 = 64 << 10
    /// The longest spin before a sleep, microseconds; `SAN_SPIN_US`. 0 on a machine with one processor.
    var spinMicroseconds: UInt64 = 50

    static func environment(_ name: StaticString) -> UnsafePointer<CChar>? {
        name.withUTF8Buffer { buffer in
            buffer.withMemoryRebound(to: CChar.self) { getenv($0.baseAddress!) }.map { UnsafePointer($0) }
        }
    }

    /// A decimal number; nil for anything else, which then has no effect (`sanswitch doctor` names it).
    static func number(_ name: StaticString) -> UInt64? {
        guard let text = environment(name), text.pointee != 0 else { return nil }
        var value: UInt64 = 0
        var i = 0
        while text[i] != 0 {
            guard text[i] >= 0x30, text[i] <= 0x39, i < 18 else { return nil }
            value = value &* 10 &+ UInt64(UInt8(bitPattern: text[i]) &- 0x30)
            i &+= 1
        }
        return value
    }

    /// The same file under a number that the program will not meet.
    private static func outOfTheWay(_ fd: CInt) -> CInt {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return fd }
        let placed = sys_fcntl(fd, F_DUPFD_CLOEXEC, Int(min(limit.rlim_cur, 1 << 20)) / 8 * 7)
        if placed >= 0 { _ = sys_close(fd) }
        return placed < 0 ? fd : CInt(placed)
    }

    mutating func read() {
        if let san = Self.environment("SAN"), strcmp(san, "off") == 0 { isOn = false }
        if let text = Self.environment("SAN_LOG"), strncmp(text, "debug", 5) == 0 {
            if text[5] == 0x3a {
                let fd = sys_open(text + 6, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC)
                log = fd < 0 ? -1 : Self.outOfTheWay(CInt(fd))
            } else if text[5] == 0 {
                log = 2
            }
        }
        if let value = Self.number("SAN_AFTER_CALLS") { afterCalls = value }
        if let value = Self.number("SAN_AFTER_BYTES") { afterBytes = value }
        if let value = Self.number("SAN_SPIN_US") { spinMicroseconds = min(value, 10_000) }
        if sysconf(CInt(_SC_NPROCESSORS_ONLN)) < 2 { spinMicroseconds = 0 }
    }
}

nonisolated(unsafe) var settings = Settings()

/// One line of the debug log. A single load when silent.
@inline(__always)
func log(_ event: StaticString, _ fd: CInt = -1, _ first: UInt64 = 0, _ second: UInt64 = 0) {
    if settings.log >= 0 { writeLog(event, fd, first, second) }
}

@inline(never)
private func writeLog(_ event: StaticString, _ fd: CInt, _ first: UInt64, _ second: UInt64) {
    event.withUTF8Buffer {
        $0.withMemoryRebound(to: CChar.self) { libc_log(settings.log, $0.baseAddress!, fd, first, second) }
    }
}
