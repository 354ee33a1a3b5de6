import CLibc
import Configuration
import Libc

/// The configuration's files, read when the first TCP socket is made, so that a program without one pays nothing. A file that
/// cannot be understood leaves the program on TCP: half a set of rules could switch what somebody meant to leave alone.
enum ConfigurationFiles {
    private static let system: StaticString = "/etc/sanswitch/sanswitch.conf"
    private static let roomForPath = 4096

    /// False: stay on TCP.
    static func load() -> Bool {
        guard let buffer = sys_map(Parser.limit + roomForPath * 2, -1, MAP_PRIVATE | MAP_ANONYMOUS) else {
            return false
        }
        defer { sys_unmap(buffer, Parser.limit + roomForPath * 2) }
        let program = ProgramName(room: buffer + Parser.limit, count: roomForPath)
        if let file = settings.file { return file.pointee == 0 || load(file, mustExist: true, buffer, program) }
        let isFine = system.withUTF8Buffer { text in
            text.withMemoryRebound(to: CChar.self) { load($0.baseAddress!, mustExist: false, buffer, program) }
        }
        return isFine && loadUsers(buffer, program)
    }

    /// `$XDG_CONFIG_HOME/sanswitch/sanswitch.conf` or `$HOME/.config/sanswitch/sanswitch.conf`.
    private static func loadUsers(_ buffer: UnsafeMutableRawPointer, _ program: ProgramName) -> Bool {
        guard let home = settings.home, home.pointee != 0 else { return true }
        let path = (buffer + Parser.limit + roomForPath).assumingMemoryBound(to: CChar.self)
        let rest: StaticString =
            settings.isHomeConfiguration ? "/sanswitch/sanswitch.conf" : "/.config/sanswitch/sanswitch.conf"
        let length = strlen(home)
        guard length + rest.utf8CodeUnitCount < roomForPath else { return true }
        memcpy(path, home, length)
        rest.withUTF8Buffer { _ = memcpy(path + length, $0.baseAddress!, $0.count) }
        path[length + rest.utf8CodeUnitCount] = 0
        return load(path, mustExist: false, buffer, program)
    }

    private static func load(
        _ path: UnsafePointer<CChar>, mustExist: Bool, _ buffer: UnsafeMutableRawPointer, _ program: ProgramName
    ) -> Bool {
        // A pipe without a writer reads as empty instead of blocking the program.
        let fd = sys_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        if fd < 0 {
            // A daemon that gave up its rights may not look into the home that it was started from.
            let isAbsent = fd == -Int(ENOENT) || fd == -Int(ENOTDIR) || fd == -Int(EACCES)
            if !isAbsent || mustExist {
                log("configuration cannot be read, everything stays on TCP: errno", -1, UInt64(-fd))
            }
            return isAbsent && !mustExist
        }
        let count = read(CInt(fd), buffer)
        _ = sys_close(CInt(fd))
        guard let count else {
            log("configuration cannot be read or is too long, everything stays on TCP")
            return false
        }
        return apply(UnsafeRawBufferPointer(start: buffer, count: count), program)
    }

    /// Nil: an error, or more than there may be.
    private static func read(_ fd: CInt, _ buffer: UnsafeMutableRawPointer) -> Int? {
        var count = 0
        while count < Parser.limit {
            let got = sys_read(fd, buffer + count, Parser.limit &- count)
            if got == 0 { return count }
            if got == -Int(EINTR) { continue }
            guard got > 0 else { return nil }
            count &+= got
        }
        return nil
    }

    private static func apply(_ text: UnsafeRawBufferPointer, _ program: ProgramName) -> Bool {
        var parser = Parser(text)
        while let statement = parser.next() {
            switch statement {
            case .knob(let knob, let value): settings.set(knob, value)
            case .rule(let rule, program: let pattern):
                let isMine = pattern.count == 0 || Pattern.matches(pattern, path: program.path, name: program.name)
                if !isMine || Rules.add(rule) { continue }
                log("too many rules, everything stays on TCP: line", -1, UInt64(parser.line))
                return false
            case .wrong:
                log("configuration is wrong, everything stays on TCP: line", -1, UInt64(parser.line))
                return false
            }
        }
        return true
    }
}

/// This program's executable, and the kernel's name for the process.
struct ProgramName {
    let path: UnsafeRawBufferPointer
    let name: UnsafeRawBufferPointer

    init(room: UnsafeMutableRawPointer, count: Int) {
        let nameRoom = 64
        let found = sys_readlink("/proc/self/exe", room.assumingMemoryBound(to: CChar.self), count &- nameRoom)
        path = UnsafeRawBufferPointer(start: room, count: max(0, found))
        let start = room + count - nameRoom
        let fd = sys_open("/proc/self/comm", O_RDONLY | O_CLOEXEC)
        let got = fd < 0 ? 0 : sys_read(CInt(fd), start, nameRoom)
        if fd >= 0 { _ = sys_close(CInt(fd)) }
        // The last byte is the line's end.
        name = UnsafeRawBufferPointer(start: start, count: max(0, got &- 1))
    }
}
