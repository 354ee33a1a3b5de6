import ArgumentParser
import CLibc
import Glibc
import SessionState

struct Stat: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show the sessions of every process you may look into.",
        discussion: """
            One line for each direction of each connection: the path its bytes take now (kernel: TCP; companion: shared \
            memory; draining: about to switch; returned: back on TCP), the bytes that each path carried, the stream offset \
            of the switch-over (and of a switch-back, after a slash), and the reason of a direction that is on TCP. You see \
            your own processes, and as root all of them.

            EXAMPLES
              sanswitch stat
              sanswitch stat $(pidof redis-server)
              sanswitch stat --json | jq '.[] | select(.reason != "none") | [.program, .peer, .reasonText]'
              sanswitch stat --prometheus --output /var/lib/node_exporter/sanswitch.prom --every 15
            """)

    @Flag(help: "Print an array of objects, for programs.")
    var json = false

    @Flag(help: "Print the text exposition of Prometheus: sums by program, direction, path and reason.")
    var prometheus = false

    @Flag(help: "With --prometheus: also counters of every single session.")
    var each = false

    @Flag(help: "List every reason for which a direction can be on TCP.")
    var reasons = false

    @Option(
        help: ArgumentHelp(
            "Write to a file instead, replaced whole by rename (node_exporter's textfile collector).", valueName: "file"
        ),
        completion: .file())
    var output: String?

    @Option(help: ArgumentHelp("With --output: again every so many seconds, until stopped.", valueName: "seconds"))
    var every: Double?

    @Argument(help: ArgumentHelp("Only sessions held by these processes.", valueName: "pid"))
    var pids: [Int32] = []

    func validate() throws {
        if json, prometheus { throw ValidationError("--json and --prometheus exclude each other") }
        if each, !prometheus { throw ValidationError("--each belongs to --prometheus") }
        guard let every else { return }
        guard output != nil else { throw ValidationError("--every belongs to --output") }
        guard every >= 0.1, every <= 86400 else { throw ValidationError("--every takes 0.1 to 86400 seconds") }
    }

    func run() throws {
        if reasons {
            var table = Table([.init(title: "REASON"), .init(title: "MEANING")])
            for reason in Reason.allCases { table.add(["\(reason)", reason.text.description]) }
            return print(table.lines().joined(separator: "\n"))
        }
        let obstacles = pids.compactMap(Self.obstacle)
        while true {
            try put(text())
            guard let every else { break }
            pause(every)
        }
        obstacles.forEach(warn)
        if !obstacles.isEmpty { throw ExitCode(1) }
    }

    private func text() -> String {
        let sessions = SessionPages.all().flatMap { $0.reports() }
            .filter { pids.isEmpty || !Set($0.pids).isDisjoint(with: pids) }
            .sorted { ($0.pids[0], $0.local.port, $0.peer.port) < ($1.pids[0], $1.local.port, $1.peer.port) }
        if prometheus { return Prometheus(sessions, each: each).text }
        if json { return Json.array(sessions.map(\.json)).line + "\n" }
        return sessions.isEmpty ? "no sessions\n" : Self.table(sessions).lines().joined(separator: "\n") + "\n"
    }

    private func put(_ text: String) throws {
        guard let output else {
            emit(text)
            return
        }
        // A reader sees the old text or the new one, never a part. The collector reads `*.prom` only.
        let fresh = "\(output).\(getpid())"
        let fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        let bytes = Array(text.utf8)
        let isWritten = fd >= 0 && write(fd, bytes, bytes.count) == bytes.count
        let code = libc_errno()
        if fd >= 0 { close(fd) }
        guard isWritten, rename(fresh, output) == 0 else {
            warn("\(output): \(describe(isWritten ? libc_errno() : code))")
            unlink(fresh)
            throw ExitCode(1)
        }
    }

    /// Why the sessions of a process that was asked for cannot be seen; nil when they can.
    private static func obstacle(_ pid: Int32) -> String? {
        if access("/proc/\(pid)", F_OK) != 0 { return "no process \(pid)" }
        guard let directory = opendir("/proc/\(pid)/fd") else { return "process \(pid): \(describe(libc_errno()))" }
        closedir(directory)
        return nil
    }

    private static func table(_ sessions: [SessionReport]) -> Table {
        var table = Table([
            .init(title: "PROGRAM"), .init(title: "PID", isNumber: true), .init(title: "ROLE"), .init(title: "LOCAL"),
            .init(title: "PEER"), .init(title: "DIRECTION"), .init(title: "PATH"),
            .init(title: "TCP BYTES", isNumber: true),
            .init(title: "COMPANION BYTES", isNumber: true), .init(title: "SWITCHED AT", isNumber: true),
            .init(title: "REASON"),
        ])
        for session in sessions {
            let name = [
                printable(session.program), "\(session.pids[0])", session.role, session.local.text, session.peer.text,
            ]
            for (direction, state) in [("send", session.send), ("receive", session.receive)] {
                table.add(
                    name + [
                        direction, "\(state.path)", "\(state.kernelBytes)", "\(state.companionBytes)", switches(state),
                        state.isOnTCP ? session.reasonOnTCP : "",
                    ])
            }
        }
        return table
    }

    private static func switches(_ state: DirectionReport) -> String {
        let over = state.switchOver.map { "\($0)" } ?? "-"
        return state.switchBack.map { "\(over)/\($0)" } ?? over
    }
}

extension SessionReport {
    var json: Json {
        .object([
            ("pid", .number(UInt64(pids[0]))), ("pids", .array(pids.map { .number(UInt64($0)) })),
            ("program", .text(program)), ("role", .text(role)), ("local", .text(local.text)),
            ("peer", .text(peer.text)),
            ("reason", .text(reasonName)), ("reasonText", .text(reasonText)), ("send", send.json),
            ("receive", receive.json),
        ])
    }
}

extension DirectionReport {
    var json: Json {
        .object([
            ("path", .text("\(path)")), ("bytes", .number(bytes)), ("kernelBytes", .number(kernelBytes)),
            ("companionBytes", .number(companionBytes)), ("switchOver", .optional(switchOver)),
            ("switchBack", .optional(switchBack)), ("switchOvers", .number(overs)), ("switchBacks", .number(backs)),
            ("calls", .number(calls)), ("doorbells", .number(doorbells)),
            ("sleeps", .number(sleeps)),
        ])
    }
}
