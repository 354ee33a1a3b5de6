import CLibc
import Libc

/// What names a session from one look to the next.
struct SessionKey: Hashable {
    let pid: Int32
    let isClient: Bool
    let local: String
    let peer: String

    init(_ report: SessionReport) {
        (pid, isClient) = (report.pids[0], report.isClient)
        (local, peer) = (report.local.text, report.peer.text)
    }

    /// The same connection as its other end names it, whoever holds that end.
    var ends: [String] { [local, peer] }
    var otherEnds: [String] { [peer, local] }
}

/// Every session at one moment.
struct Sample {
    let ticks: UInt64
    let sessions: [(key: SessionKey, report: SessionReport)]
    private let byKey: [SessionKey: SessionReport]
    private let received: [[String]: UInt64]

    init(matching filter: SessionFilter) {
        let all = SessionPages.all().flatMap { $0.reports() }.map { (key: SessionKey($0), report: $0) }
        ticks = libc_nanoseconds()
        sessions = all.filter { filter.holds($0.report) }
        byKey = Dictionary(sessions.map { ($0.key, $0.report) }, uniquingKeysWith: { first, _ in first })
        received = Dictionary(all.map { ($0.key.ends, $0.report.receive.bytes) }, uniquingKeysWith: max)
    }

    subscript(key: SessionKey) -> SessionReport? { byKey[key] }

    /// Bytes sent that the other end has not taken yet: in the ring, and before the switch-over in TCP. Nil when the other end
    /// is not to be seen.
    func inFlight(_ key: SessionKey, _ report: SessionReport) -> UInt64? {
        // Read one after the other, while bytes move: what seems negative is nothing.
        received[key.otherEnds].map { report.send.bytes > $0 ? report.send.bytes - $0 : 0 }
    }
}

/// Which sessions are shown.
struct SessionFilter {
    var program: String?
    var port: UInt16?

    init(program: String? = nil, port: UInt16? = nil) { (self.program, self.port) = (program, port) }

    /// As typed: a port, or a part of the program's name.
    init(_ text: String) {
        port = UInt16(text)
        program = port == nil && !text.isEmpty ? text : nil
    }

    func holds(_ report: SessionReport) -> Bool {
        if let port, report.local.port != port, report.peer.port != port { return false }
        guard let program else { return true }
        let (name, part) = (Array(report.program.utf8), Array(program.utf8))
        guard part.count <= name.count else { return false }
        return (0...(name.count - part.count)).contains { name[$0...].starts(with: part) }
    }

    var text: String? {
        let parts = [program, port.map { "port \($0)" }].compactMap { $0 }
        return parts.isEmpty ? nil : parts.joined(separator: ", ")
    }
}

/// What a session did between two looks, by the second.
struct Activity {
    let key: SessionKey
    let report: SessionReport
    let sent: Double
    let received: Double
    let calls: Double
    let doorbells: Double
    /// Of the calls that moved bytes, the share before which nobody slept; nil without calls.
    let awake: Double?
    let inFlight: UInt64?

    init(_ key: SessionKey, _ report: SessionReport, since before: SessionReport?, seconds: Double, inFlight: UInt64?) {
        (self.key, self.report, self.inFlight) = (key, report, inFlight)
        func rate(_ value: (SessionReport) -> UInt64) -> Double {
            // A session that appeared in between has done all it did in between.
            let (now, then) = (value(report), before.map(value) ?? 0)
            return now > then ? Double(now - then) / max(seconds, 1e-6) : 0
        }
        sent = rate { $0.send.bytes }
        received = rate { $0.receive.bytes }
        calls = rate { $0.send.calls + $0.receive.calls }
        doorbells = rate { $0.send.doorbells + $0.receive.doorbells }
        let sleeps = rate { $0.send.sleeps + $0.receive.sleeps }
        awake = calls > 0 ? max(0, 1 - sleeps / calls) : nil
    }

    /// Where the server listens, and the client's own port.
    var service: String { report.isClient ? report.peer.text : report.local.text }
    var clientPort: UInt16 { report.isClient ? report.local.port : report.peer.port }

    /// One letter for each direction, sending first.
    var paths: String { "\(report.send.path)".prefix(1) + " " + "\(report.receive.path)".prefix(1) }
    var isOnTCP: Bool { report.send.isOnTCP || report.receive.isOnTCP }
}

extension SessionReport {
    /// Changes of path, both directions.
    var overs: Int { Int(clamping: send.overs + receive.overs) }
    var backs: Int { Int(clamping: send.backs + receive.backs) }
}

/// Directions that changed their path between two looks, each with the latest offset and the reason.
enum PathChange {
    static func between(_ before: SessionReport?, _ now: SessionReport) -> [String] {
        let (name, ends) = ("\(printable(now.program)) \(now.pids[0])", "\(now.local.text) > \(now.peer.text)")
        var changes: [String] = []
        for (direction, then, state) in [("send", before?.send, now.send), ("receive", before?.receive, now.receive)] {
            if let offset = state.switchOver, then?.switchOver != offset {
                changes.append("\(name) \(direction): companion from byte \(offset), \(ends)")
            }
            if let offset = state.switchBack, then?.switchBack != offset {
                changes.append("\(name) \(direction): TCP from byte \(offset), \(now.reasonText), \(ends)")
            }
        }
        return changes
    }
}
