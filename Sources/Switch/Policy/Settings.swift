import CLibc
import Configuration
import Libc
import Registry
import Synchronization

/// What the environment says, then files (ConfigurationFiles). The environment is read once, when the library is loaded: nginx
/// empties its workers' environment, others rewrite it.
struct Settings {
    /// `SAN=off`: the library forwards every call and keeps no state.
    var isOn = true
    /// `SAN_LOG=debug` (standard error) or `SAN_LOG=debug:FILE`; -1 when silent.
    var log: CInt = -1
    /// Calls and bytes on TCP after which a switch-over is taken to pay.
    var afterCalls = Knob.afterCalls.standard
    var afterBytes = Knob.afterBytes.standard
    /// The longest spin before a sleep; 0 on a machine with one processor.
    var spinMicroseconds = Knob.spinMicroseconds.standard
    /// Knobs that the environment has set, a bit for each: files do not change them.
    private var given: UInt32 = 0
    /// `SAN_CONFIG`, and the directory of the user's own file: copies, because programs overwrite their environment.
    private(set) var file: UnsafeMutablePointer<CChar>?
    private(set) var home: UnsafeMutablePointer<CChar>?
    private(set) var isHomeConfiguration = false
    /// `SAN_PROVIDERS`: the only providers to use, in order; nil for all that are registered. `SAN_PROVIDER_PATH`: where they are.
    /// Copies: the environment may be gone when they are needed. Not read in a program that gains privilege.
    var providers: UnsafePointer<CChar>?
    var providerPath = UnsafeRawPointer(Registry.usualPath.utf8Start).assumingMemoryBound(to: CChar.self)

    static func environment(_ name: StaticString) -> UnsafePointer<CChar>? {
        name.withUTF8Buffer { buffer in
            buffer.withMemoryRebound(to: CChar.self) { getenv($0.baseAddress!) }.map { UnsafePointer($0) }
        }
    }

    /// A decimal number; nil for anything else, which then has no effect (`sanswitch doctor` names it).
    private static func number(_ name: StaticString) -> UInt64? {
        guard let text = environment(name) else { return nil }
        return UnsafeRawBufferPointer(start: text, count: strlen(text)).decimal
    }

    /// A file's word on a knob, unless the environment has spoken.
    mutating func set(_ knob: Knob, _ value: UInt64) {
        if given & 1 << knob.rawValue != 0 { return }
        let value = min(value, knob.most)
        switch knob {
        case .afterCalls: afterCalls = value
        case .afterBytes: afterBytes = value
        case .spinMicroseconds: spinMicroseconds = sysconf(CInt(_SC_NPROCESSORS_ONLN)) < 2 ? 0 : value
        case .isOn, .log, .file, .providers, .providerPath: break
        }
    }

    private mutating func take(_ knob: Knob) {
        guard let value = Self.number(knob.environment) else { return }
        set(knob, value)
        given |= 1 << knob.rawValue
    }

    private static func copy(_ name: StaticString) -> UnsafePointer<CChar>? {
        let text = UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self)
        guard let value = secure_getenv(text), value.pointee != 0, let copy = strdup(value) else { return nil }
        return UnsafePointer(copy)
    }

    /// The same file under a number that the program will not meet; the table of numbers comes later.
    private static func outOfTheWay(_ fd: CInt) -> CInt {
        let limit = HiddenDescriptors.limits()
        var placed = HiddenDescriptors.copyBeyond(fd, limit)
        if placed < 0 {
            placed = CInt(truncatingIfNeeded: sys_fcntl(fd, F_DUPFD_CLOEXEC, Int(min(limit.soft, 1 << 16)) / 8 * 7))
        }
        if placed >= 0 { _ = sys_close(fd) }
        return placed < 0 ? fd : placed
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
        spinMicroseconds = sysconf(CInt(_SC_NPROCESSORS_ONLN)) < 2 ? 0 : spinMicroseconds
        take(.afterCalls)
        take(.afterBytes)
        take(.spinMicroseconds)
        guard isOn else { return }
        providers = Self.copy("SAN_PROVIDERS")
        if let path = Self.copy("SAN_PROVIDER_PATH") { providerPath = path }
        file = secure_getenv("SAN_CONFIG").flatMap { strdup($0) }
        home = secure_getenv("XDG_CONFIG_HOME").flatMap { $0.pointee == 0x2f ? strdup($0) : nil }
        isHomeConfiguration = home != nil
        if home == nil { home = secure_getenv("HOME").flatMap { strdup($0) } }
    }
}

nonisolated(unsafe) var settings = Settings()

/// One line of the debug log. A single load when silent.
@inline(__always)
func log(_ event: StaticString, _ fd: CInt = -1, _ first: UInt64 = 0, _ second: UInt64 = 0) {
    if settings.log >= 0 { writeLog(event, fd, first, second) }
}

/// A line that names something.
@inline(never)
func logText(_ event: StaticString, _ name: UnsafePointer<CChar>, _ text: StaticString, _ number: CInt = 0) {
    func characters(_ text: StaticString) -> UnsafePointer<CChar> {
        UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
    }
    guard settings.log >= 0 else { return }
    Log.writers.wrappingAdd(1, ordering: .sequentiallyConsistent)
    libc_log_text(settings.log, characters(event), name, characters(text), number)
    Log.writers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
}

@inline(never)
private func writeLog(_ event: StaticString, _ fd: CInt, _ first: UInt64, _ second: UInt64) {
    Log.writers.wrappingAdd(1, ordering: .sequentiallyConsistent)
    event.withUTF8Buffer {
        $0.withMemoryRebound(to: CChar.self) { libc_log(settings.log, $0.baseAddress!, fd, first, second) }
    }
    Log.writers.wrappingSubtract(1, ordering: .sequentiallyConsistent)
}

/// The log's own descriptor.
enum Log {
    /// Threads that write a line.
    fileprivate static let writers = Atomic<UInt32>(0)

    /// The program needs its number (GivingWay.swift); -1: the log ends.
    static func renumber(_ number: CInt, _ new: CInt) -> Bool {
        guard settings.log == number else { return false }
        settings.log = new
        var rounds = 0
        while writers.load(ordering: .sequentiallyConsistent) > 0, rounds < 10_000 {
            sched_yield()
            rounds &+= 1
        }
        return true
    }
}
