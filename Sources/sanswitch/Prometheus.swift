import SessionState

/// The text exposition format of Prometheus (version 0.0.4): help, type, then one line for each set of labels.
///
/// Summed by program and direction, because a label for each connection (its port is a new one each time) is what monitoring
/// systems choke on. The sums are over open sessions and fall when one closes: gauges. Single sessions, on request, only grow:
/// counters.
struct Prometheus {
    private struct Family {
        let name: String
        let type: String
        let help: String
        var values: [(labels: [(String, String)], value: UInt64)] = []
    }

    private var families: [Family] = []

    init(_ sessions: [SessionReport], each: Bool) {
        addSums(sessions)
        if each { addSessions(sessions) }
    }

    var text: String {
        families.map { family in
            "# HELP \(family.name) \(family.help)\n# TYPE \(family.name) \(family.type)\n"
                + family.values.map { "\(family.name)\(Self.labels($0.labels)) \($0.value)\n" }.joined()
        }.joined()
    }

    private static let counts: [(name: String, help: String, value: @Sendable (DirectionReport) -> UInt64)] = [
        ("calls", "Calls that moved bytes", { $0.calls }), ("doorbells", "Wake-ups of the other end", { $0.doorbells }),
        ("sleeps", "Waits that slept", { $0.sleeps }),
    ]

    private static func directions(_ session: SessionReport) -> [(String, DirectionReport)] {
        [("send", session.send), ("receive", session.receive)]
    }

    private mutating func addSums(_ sessions: [SessionReport]) {
        var open: [[String]: UInt64] = [:]
        var bytes: [[String]: UInt64] = [:]
        var counts = Self.counts.map { _ in [[String]: UInt64]() }
        var changes: [[String]: UInt64] = [:]
        for session in sessions {
            for (direction, state) in Self.directions(session) {
                let name = [session.program, session.role, direction]
                open[name + ["\(state.path)", state.isOnTCP ? session.reasonName : "none"], default: 0] += 1
                bytes[name + ["kernel"], default: 0] += state.kernelBytes
                bytes[name + ["companion"], default: 0] += state.companionBytes
                for index in counts.indices { counts[index][name, default: 0] += Self.counts[index].value(state) }
                changes[name + ["over"], default: 0] += state.overs
                changes[name + ["back"], default: 0] += state.backs
            }
        }
        let names = ["program", "role", "direction"]
        add(
            "sanswitch_directions", "Directions of open sessions by path, and why on TCP", names + ["path", "reason"],
            open)
        add("sanswitch_open_bytes", "Bytes that open sessions have moved", names + ["path"], bytes)
        for (index, count) in Self.counts.enumerated() {
            add("sanswitch_open_\(count.name)", "\(count.help), open sessions", names, counts[index])
        }
        add("sanswitch_open_switches", "Changes of path of open sessions", names + ["change"], changes)
    }

    private mutating func add(_ name: String, _ help: String, _ labels: [String], _ sums: [[String]: UInt64]) {
        let sorted = sums.sorted { $0.key.lexicographicallyPrecedes($1.key) }
        families.append(
            Family(
                name: name, type: "gauge", help: help, values: sorted.map { (Array(zip(labels, $0.key)), $0.value) }))
    }

    private mutating func addSessions(_ sessions: [SessionReport]) {
        var bytes = Family(
            name: "sanswitch_session_bytes_total", type: "counter", help: "Bytes that a session has moved")
        var counts = Self.counts.map {
            Family(name: "sanswitch_session_\($0.name)_total", type: "counter", help: "\($0.help), by session")
        }
        for session in sessions {
            for (direction, state) in Self.directions(session) {
                let labels = [
                    ("program", session.program), ("pid", "\(session.pids[0])"), ("role", session.role),
                    ("local", session.local.text), ("peer", session.peer.text), ("direction", direction),
                ]
                bytes.values.append((labels + [("path", "kernel")], state.kernelBytes))
                bytes.values.append((labels + [("path", "companion")], state.companionBytes))
                for index in counts.indices { counts[index].values.append((labels, Self.counts[index].value(state))) }
            }
        }
        families += [bytes] + counts
    }

    private static func labels(_ labels: [(String, String)]) -> String {
        "{" + labels.map { "\($0)=\"\(escaped($1))\"" }.joined(separator: ",") + "}"
    }

    private static func escaped(_ text: String) -> String {
        var escaped = ""
        for character in printable(text).unicodeScalars {
            if character == "\\" || character == "\"" { escaped.unicodeScalars.append("\\") }
            escaped.unicodeScalars.append(character)
        }
        return escaped
    }
}
