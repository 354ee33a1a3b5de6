import CLibc
import Glibc

/// A program run to its end, to see whether it complains.
struct Trial {
    /// As a shell shows it: 128 and the signal's number for a death by signal.
    let status: CInt
    let errors: String

    /// Runs `path` with nothing but `variables` in its environment; nil when it cannot be started.
    static func run(_ path: String, variables: [String]) -> Trial? {
        var ends: [CInt] = [-1, -1]
        guard pipe2(&ends, O_CLOEXEC) == 0 else { return nil }
        defer { close(ends[0]) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, ends[1], 2)
        defer { posix_spawn_file_actions_destroy(&actions) }
        var arguments: [UnsafeMutablePointer<CChar>?] = [strdup(path), nil]
        var environment = variables.map { strdup($0) } + [nil]
        defer { (arguments + environment).forEach { free($0) } }
        var pid: pid_t = 0
        let result = posix_spawn(&pid, path, &actions, nil, &arguments, &environment)
        close(ends[1])
        guard result == 0 else { return nil }
        let errors = readAll(ends[0])
        var status: CInt = 0
        while waitpid(pid, &status, 0) < 0 { guard libc_errno() == EINTR else { return nil } }
        return Trial(status: status & 0x7f == 0 ? status >> 8 & 0xff : 128 + status & 0x7f, errors: errors)
    }

    private static func readAll(_ fd: CInt) -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while case let count = read(fd, &chunk, chunk.count), count > 0 { bytes += chunk[..<count] }
        while bytes.last == 0x0a { bytes.removeLast() }
        return String(decoding: bytes, as: UTF8.self)
    }
}
