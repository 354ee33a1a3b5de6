import ArgumentParser
import CLibc

struct Doctor: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say what is missing on this machine, in a running program, or for a connection to a server.",
        discussion: """
            With HOST:PORT, looks at that server as a client would: opens one TCP connection, sends nothing, closes it. \
            A port alone means this host; an IPv6 address takes brackets. Run it as the user, in the shell and in the \
            container or network namespace, from which the client would run. With --pid, looks into a running program: whether \
            the library is in it, and what its connections do. A verdict comes first, then what was found, then what mends \
            it. Exit status: 0 it works, 1 it does not.

            EXAMPLES
              sanswitch doctor
              sanswitch doctor localhost:6379
              sanswitch doctor '[::1]:5432'
              sanswitch doctor --pid $(pidof redis-server)
            """)

    @Option(help: ArgumentHelp("The library to examine, instead of ../lib/libsanswitch.so.", valueName: "file"))
    var library: String?

    @Option(help: ArgumentHelp("A running program to examine.", valueName: "pid"))
    var pid: Int32?

    @Argument(help: ArgumentHelp("A server to examine.", valueName: "host:port"))
    var server: String?

    func validate() throws {
        if server != nil, pid != nil { throw ValidationError("name a server or a process, not both") }
        guard let server, Endpoint(server) == nil else { return }
        throw ValidationError("\(server) is no HOST:PORT (an IPv6 address takes brackets: [::1]:5201)")
    }

    func run() throws {
        var diagnosis = Diagnosis()
        if let pid { return try examine(pid, &diagnosis) }
        MachineChecks.run(library: library.map(absolute), &diagnosis)
        guard let server, let endpoint = Endpoint(server) else {
            diagnosis.print(good: "sanswitch works on this machine.", bad: "sanswitch would not work on this machine")
            return try diagnosis.exit()
        }
        if diagnosis.failure == nil { ServerChecks.run(endpoint, &diagnosis) }
        diagnosis.print(
            good:
                "A connection to \(server) would switch, after a few calls on TCP (SAN_AFTER_CALLS, SAN_AFTER_BYTES).",
            bad: "A connection to \(server) would stay on TCP")
        try diagnosis.exit()
    }

    private func examine(_ pid: Int32, _ diagnosis: inout Diagnosis) throws {
        var checks = ProcessChecks(pid, &diagnosis)
        checks?.run(&diagnosis)
        diagnosis.print(
            good: checks?.summary ?? "", bad: "Process \(pid)\(checks.map { " (\($0.name))" } ?? "") is on TCP")
        try diagnosis.exit()
    }
}

/// What was looked at and what it showed, in order.
struct Diagnosis {
    enum Mark: String {
        case good = "ok  "
        case note = "note"
        case bad = "FAIL"
    }

    private var evidence: [(mark: Mark, text: String)] = []
    private var remedies: [String] = []
    /// What decides against it; the first one found.
    private(set) var failure: String?

    mutating func good(_ text: String) { evidence.append((.good, text)) }

    /// Worth knowing, decides nothing.
    mutating func note(_ text: String, remedy: String? = nil) {
        evidence.append((.note, text))
        if let remedy { add(remedy) }
    }

    mutating func bad(_ text: String, remedy: String) {
        evidence.append((.bad, text))
        add(remedy)
        failure = failure ?? text
    }

    private mutating func add(_ remedy: String) {
        if !remedies.contains(remedy) { remedies.append(remedy) }
    }

    func print(good: String, bad: String) {
        Swift.print(failure.map { "\(bad): \($0)." } ?? good)
        Swift.print("")
        for (mark, text) in evidence { Swift.print("  \(mark.rawValue)  \(text)") }
        if !remedies.isEmpty { Swift.print("\nTo do:") }
        for remedy in remedies { Swift.print("  - \(remedy)") }
    }

    func exit() throws { if failure != nil { throw ExitCode(1) } }
}
