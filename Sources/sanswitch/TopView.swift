import CLibc

/// What `top` knows between two looks, and how it is written: as lines of a given width, for a terminal or for a file.
struct TopView {
    enum Order: String, CaseIterable {
        case bytes, sent, received, calls, doorbells, awake, flight, program, pid, port

        /// The busiest first; names and numbers upwards.
        func precedes(_ a: Activity, _ b: Activity) -> Bool {
            switch self {
            case .bytes: a.sent + a.received > b.sent + b.received
            case .sent: a.sent > b.sent
            case .received: a.received > b.received
            case .calls: a.calls > b.calls
            case .doorbells: a.doorbells > b.doorbells
            case .awake: (a.awake ?? 2) < (b.awake ?? 2)
            case .flight: (a.inFlight ?? 0) > (b.inFlight ?? 0)
            case .program: a.report.program < b.report.program
            case .pid: a.key.pid < b.key.pid
            case .port: (a.report.isClient ? a.key.peer : a.key.local) < (b.report.isClient ? b.key.peer : b.key.local)
            }
        }
    }

    private struct Column: Sendable {
        let title: String
        let width: Int
        var isNumber = true
        var keepsEnd = false
        let text: @Sendable (Activity) -> String
    }

    /// 80 columns with their gaps.
    private static let narrow: [Column] = [
        Column(title: "PROGRAM", width: 11, isNumber: false) { printable($0.report.program) },
        Column(title: "PID", width: 7) { "\($0.key.pid)" },
        Column(title: "R", width: 1, isNumber: false) { String($0.report.role.prefix(1)) },
        // The port is at the end, and tells most.
        Column(title: "SERVICE", width: 15, isNumber: false, keepsEnd: true) { $0.service },
        Column(title: "PTH", width: 3, isNumber: false) { $0.paths },
        Column(title: "SENT/s", width: 6) { short($0.sent) },
        Column(title: "RECV/s", width: 6) { short($0.received) },
        Column(title: "CALLS", width: 5) { short($0.calls) },
        Column(title: "BELLS", width: 5) { short($0.doorbells) },
        Column(title: "AWAKE", width: 5) { $0.awake.map { "\(Int($0 * 100)) %" } ?? "-" },
        Column(title: "FLIGHT", width: 6) { $0.inFlight.map { short(Double($0)) } ?? "-" },
    ]
    private static let wide: [Column] = [
        Column(title: "PORT", width: 5) { "\($0.clientPort)" },
        Column(title: "REASON", width: 0, isNumber: false) { $0.isOnTCP ? $0.report.reasonName : "" },
    ]

    var order = Order.bytes
    var isReversed = false
    private(set) var filter: SessionFilter
    private var before: Sample
    private var rows: [Activity] = []
    private var overs = (total: 0, new: 0)
    private var backs = (total: 0, new: 0)
    private var events: [String] = []
    private var newEvents = 0

    init(filter: SessionFilter) {
        self.filter = filter
        before = Sample(matching: filter)
        rows = before.sessions.map { Activity($0.key, $0.report, since: $0.report, seconds: 1, inFlight: nil) }
    }

    mutating func filter(by filter: SessionFilter) {
        self.filter = filter
        before = Sample(matching: filter)
        rows = rows.filter { filter.holds($0.report) }
    }

    /// Looks again.
    mutating func refresh() {
        let now = Sample(matching: filter)
        let seconds = Double(now.ticks - before.ticks) / 1e9
        let changes = now.sessions.flatMap { PathChange.between(before[$0.key], $0.report) }
        (overs.new, backs.new) = (0, 0)
        for (key, report) in now.sessions {
            let then = before[key]
            overs.new += max(0, report.overs - (then?.overs ?? 0))
            backs.new += max(0, report.backs - (then?.backs ?? 0))
        }
        overs.total += overs.new
        backs.total += backs.new
        newEvents = changes.count
        events = Array((events + changes.map { "\(clock()) \($0)" }).suffix(1000))
        rows = now.sessions.map {
            Activity(
                $0.key, $0.report, since: before[$0.key], seconds: seconds, inFlight: now.inFlight($0.key, $0.report))
        }
        before = now
    }

    private var sorted: [Activity] {
        let order = order
        let sorted = rows.sorted {
            order.precedes($0, $1) || !order.precedes($1, $0) && ($0.key.pid, $0.key.local) < ($1.key.pid, $1.key.local)
        }
        return isReversed ? sorted.reversed() : sorted
    }

    // MARK: Text

    private var head: [String] {
        let programs = Set(rows.map(\.key.pid)).count
        let onTCP = rows.filter(\.isOnTCP)
        let (sent, received) = (rows.reduce(0) { $0 + $1.sent }, rows.reduce(0) { $0 + $1.received })
        let calls = rows.reduce(0) { $0 + $1.calls }
        var reasons: [String: Int] = [:]
        for row in onTCP { reasons[row.report.reasonName, default: 0] += 1 }
        let list = reasons.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { "\($0.key) \($0.value)" }
        return [
            "sanswitch top  \(clock())  \(count(rows.count, "session")) of \(count(programs, "process", "processes")), "
                + "\(rows.count - onTCP.count) on the companion" + (filter.text.map { "  [\($0)]" } ?? ""),
            "sent \(short(sent))B/s, received \(short(received))B/s, \(short(calls)) calls/s, "
                + "\(short(rows.reduce(0) { $0 + $1.doorbells })) bells/s",
            "switch-overs \(overs.total) (+\(overs.new)), switch-backs \(backs.total) (+\(backs.new)); "
                + "on TCP: " + (list.isEmpty ? "none" : list.joined(separator: ", ")),
        ]
    }

    private func line(_ columns: [Column], _ texts: [String], cut: Bool) -> String {
        var line = ""
        for (column, text) in zip(columns, texts) {
            let isCut = cut && column.width > 0 && text.count > column.width
            let shown = !isCut ? text : String(column.keepsEnd ? text.suffix(column.width) : text.prefix(column.width))
            let padding = String(repeating: " ", count: max(0, column.width - shown.count))
            line += (line.isEmpty ? "" : " ") + (column.isNumber ? padding + shown : shown + padding)
        }
        return String(line.reversed().drop { $0 == " " }.reversed())
    }

    /// For a file: nothing is cut, and only the events of the last interval are told.
    func plainLines() -> [String] {
        let columns = Self.narrow + Self.wide
        let table = sorted.map { row in line(columns, columns.map { $0.text(row) }, cut: false) }
        return head + [line(columns, columns.map(\.title), cut: false)] + table + events.suffix(newEvents)
    }

    /// For a screen: exactly `height` lines, none longer than `width`.
    func screen(width: Int, height: Int, prompt: String?) -> [String] {
        let columns = width >= 110 ? Self.narrow + Self.wide : Self.narrow
        let shown = min(events.count, max(0, min(4, height / 5)))
        let room = max(0, height - head.count - shown - 3)
        let all = sorted
        var lines = head + ["", line(columns, columns.map(\.title), cut: true)]
        lines += all.prefix(max(0, room)).map { row in line(columns, columns.map { $0.text(row) }, cut: true) }
        let foot =
            prompt ?? "q quit  < > sort: \(order.rawValue)\(isReversed ? ", reversed" : "")  r reverse  / filter  "
            + "paths: k d c r = kernel draining companion returned"
        while lines.count < height - shown - 1 { lines.append("") }
        lines += events.suffix(shown) + [foot]
        return lines.suffix(height).map { String($0.prefix(width)) }
    }
}

/// A number in at most six places: `999`, `12.3k`, `4.56G`.
func short(_ value: Double) -> String {
    var (rest, unit) = (value, 0)
    let units = ["", "k", "M", "G", "T"]
    while rest >= 999.5, unit < units.count - 1 { (rest, unit) = (rest / 1000, unit + 1) }
    let digits = unit == 0 || rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2
    let scale = [1.0, 10, 100][digits]
    let scaled = UInt64((rest * scale).rounded())
    let whole = scaled / UInt64(scale)
    let fraction = String(scaled % UInt64(scale))
    let point = digits == 0 ? "" : "." + String(repeating: "0", count: digits - fraction.count) + fraction
    return "\(whole)\(point)\(units[unit])"
}

private func count(_ number: Int, _ one: String, _ many: String? = nil) -> String {
    "\(number) \(number == 1 ? one : many ?? one + "s")"
}

/// The time of day, local.
private func clock() -> String {
    var (now, parts) = (time(nil), tm())
    localtime_r(&now, &parts)
    return [parts.tm_hour, parts.tm_min, parts.tm_sec].map { $0 < 10 ? "0\($0)" : "\($0)" }.joined(separator: ":")
}
