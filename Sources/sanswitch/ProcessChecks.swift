import CLibc
import Libc
import SessionState

/// A running program: whether the library is in it, what would keep it on TCP, and what its connections do.
struct ProcessChecks {
    let pid: Int32
    let name: String
    private let variables: [String: String]

    /// Nil, said in the diagnosis, when the process cannot be looked into.
    init?(_ pid: Int32, _ diagnosis: inout Diagnosis) {
        self.pid = pid
        guard let comm = readFile("/proc/\(pid)/comm", limit: 64) else {
            diagnosis.bad("there is no process \(pid)", remedy: "`ps ax` lists those there are")
            return nil
        }
        name = printable(String(decoding: comm.prefix { $0 != 0x0a }, as: UTF8.self))
        // As it was started; what it changed since is not to be seen.
        guard let bytes = readFile("/proc/\(pid)/environ") else {
            diagnosis.bad(
                "process \(pid) (\(name)) cannot be looked into: \(describe(libc_errno()))",
                remedy: "run this as its user, or as root")
            return nil
        }
        let pairs = bytes.split(separator: 0).compactMap { entry -> (String, String)? in
            let parts = String(decoding: entry, as: UTF8.self).split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            return parts.count == 2 ? (String(parts[0]), String(parts[1])) : nil
        }
        variables = Dictionary(pairs, uniquingKeysWith: { first, _ in first })
    }

    /// What good news would be.
    private(set) var summary = ""

    mutating func run(_ diagnosis: inout Diagnosis) {
        checkLibrary(&diagnosis)
        // Without it nothing else matters.
        if diagnosis.failure != nil { return }
        checkSettings(&diagnosis)
        checkNamespace(&diagnosis)
        checkDescriptors(&diagnosis)
        if hasRing() {
            diagnosis.note("it uses io_uring: connections that it uses through io_uring stay on TCP")
        }
        if diagnosis.failure == nil { checkSessions(&diagnosis) }
    }

    private func checkLibrary(_ diagnosis: inout Diagnosis) {
        let maps = readFile("/proc/\(pid)/maps", limit: 1 << 24).map { String(decoding: $0, as: UTF8.self) } ?? ""
        let line = maps.split(separator: "\n").first { $0.contains("/\(Library.name)") }
        let executable = readLink("/proc/\(pid)/exe") ?? name
        guard let line else {
            if let reason = Program(path: executable).ignoresPreload {
                return diagnosis.bad(
                    "\(executable) \(reason)", remedy: "nothing helps: it stays on TCP, and so do its peers")
            }
            let given = variables["LD_PRELOAD"].map { ", though it was started with LD_PRELOAD=\(printable($0))" } ?? ""
            return diagnosis.bad(
                "\(Library.name) is not in process \(pid) (\(name))\(given)",
                remedy: "start it again: `sanswitch run -- \(executable) ...`")
        }
        let path = line.split(separator: " ", maxSplits: 5).last.map { $0.drop { $0 == " " } } ?? ""
        diagnosis.good("\(path.hasSuffix(" (deleted)") ? path.dropLast(10) : path) is in process \(pid) (\(name))")
        guard path.hasSuffix(" (deleted)") else { return }
        diagnosis.note(
            "that file has been replaced since: the process goes on with the old one",
            remedy: "start it again when that suits")
    }

    private func checkSettings(_ diagnosis: inout Diagnosis) {
        if variables["SAN"] == "off" {
            diagnosis.bad("it was started with SAN=off", remedy: "start it again without SAN=off")
        }
        if let fault = ConfigurationReport(variables).fault {
            diagnosis.bad(fault, remedy: "mend the file, then start the program again")
        }
    }

    private func checkNamespace(_ diagnosis: inout Diagnosis) {
        guard let theirs = readLink("/proc/\(pid)/ns/net"), theirs != readLink("/proc/self/ns/net") else { return }
        diagnosis.note(
            "it is in another network namespace than this shell: only peers in its own can be its companions")
    }

    private func checkDescriptors(_ diagnosis: inout Diagnosis) {
        let limits = readFile("/proc/\(pid)/limits").map { String(decoding: $0, as: UTF8.self) } ?? ""
        let words = limits.split(separator: "\n").first { $0.hasPrefix("Max open files") }?.split(separator: " ") ?? []
        // Max open files SOFT HARD files
        guard words.count > 4, let soft = UInt64(words[3]), let hard = UInt64(words[4]) else { return }
        let room = min(hard, 1 << 20) - min(soft, hard, 1 << 20)
        let text = "descriptor limits \(soft) and \(hard)"
        if room >= 256 { return diagnosis.good("\(text): room for \(room) switched connections beyond the soft one") }
        diagnosis.note(
            "\(text): switched connections take numbers that the program could need, and give way to it",
            remedy: "leave room beyond the soft limit: `ulimit -Sn 16384`, LimitNOFILE=16384:131072 in a unit")
    }

    private func hasRing() -> Bool {
        SessionPages.entries("/proc/\(pid)/fd").contains {
            readLink("/proc/\(pid)/fd/\($0)") == "anon_inode:[io_uring]"
        }
    }

    private mutating func checkSessions(_ diagnosis: inout Diagnosis) {
        let sessions = SessionPages.all().flatMap { $0.reports() }.filter { $0.pids.contains(pid) }
        let onTCP = sessions.filter { $0.send.isOnTCP && $0.receive.isOnTCP }
        let switched = sessions.count - onTCP.count
        guard !sessions.isEmpty else {
            summary = "\(name) (pid \(pid)) runs under sanswitch. It has no TCP connection that the switch knows."
            return diagnosis.note(
                "no sessions: none was made since it started, or they were inherited from another program, or its listener is ruled out"
            )
        }
        summary =
            "\(name) (pid \(pid)) runs under sanswitch: \(switched) of \(sessions.count) connections have switched."
        if switched > 0 { diagnosis.good("\(switched) of \(sessions.count) connections have switched") }
        for (reason, count) in Self.counts(onTCP) {
            let first = onTCP.first { $0.reason == reason }
            let text =
                "\(count) on TCP: \(first?.reasonText ?? "?") (\(first?.reasonName ?? "?")), as \(first?.ends ?? "")"
            switch Self.remedy(reason) {
            case .some(let remedy) where switched == 0: diagnosis.bad(text, remedy: remedy)
            case let remedy: diagnosis.note(text, remedy: remedy)
            }
        }
    }

    /// The most frequent first.
    private static func counts(_ sessions: [SessionReport]) -> [(Reason?, Int)] {
        var counts: [Reason?: Int] = [:]
        for session in sessions { counts[session.reason, default: 0] += 1 }
        return counts.sorted { ($1.value, $0.key?.rawValue ?? 0) < ($0.value, $1.key?.rawValue ?? 0) }
    }

    /// What would let such a connection switch; nil where nothing is wrong or nothing helps.
    private static func remedy(_ reason: Reason?) -> String? {
        switch reason {
        case .peerUnaware, .waitingForPeer:
            "start the program at the other end under the switch, too; `ss -tnp` names it"
        case .descriptorsExhausted: "raise the descriptor limit before starting the program (`ulimit -n 65536`)"
        case .memoryExhausted: "give the program, or its container, more memory"
        case .peerNotOwner: "run the program at the rendezvous as the user who owns the socket, or as root"
        case .ruledOut: "`sanswitch config` shows the rules"
        default: nil
        }
    }
}

extension SessionReport {
    fileprivate var ends: String { "\(local.text) > \(peer.text)" }
}
