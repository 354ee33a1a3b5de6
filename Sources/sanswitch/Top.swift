import ArgumentParser
import CLibc
import Glibc

struct Top: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Watch all sessions: rates, path, wake-ups, what is in flight, and every change of path.",
        discussion: """
            All by the second: SENT and RECV are bytes, CALLS the calls that moved some, BELLS the times the other end had to be \
            woken. AWAKE is the share of calls before which this end did not sleep: there, looking (spinning) was enough. FLIGHT \
            is what the other end has not taken yet. PTH has a letter for each direction, sending first: k TCP (kernel), d \
            draining, c companion, r returned to TCP, a asking for TCP. With 110 columns there are also the client's port and the reason.

            On a terminal, keys sort (< and >, r reverses), filter (/ and a part of a program's name, or a port) and quit (q). \
            Elsewhere it writes plain text, a block for each interval.

            EXAMPLES
              sanswitch top
              sanswitch top --program redis --sort calls
              sanswitch top --port 6379 --every 5 | tee log
            """)

    @Option(help: ArgumentHelp("Seconds between two looks.", valueName: "seconds"))
    var every = 1.0

    @Option(help: ArgumentHelp("End after so many looks.", valueName: "n"))
    var count: Int?

    @Option(
        help: ArgumentHelp(
            "First what has most: \(TopView.Order.allCases.map(\.rawValue).joined(separator: ", ")).", valueName: "key"),
        completion: .list(TopView.Order.allCases.map(\.rawValue)))
    var sort = "bytes"

    @Option(help: ArgumentHelp("Only programs with this in their name.", valueName: "name"))
    var program: String?

    @Option(help: ArgumentHelp("Only connections with this port at either end.", valueName: "port"))
    var port: UInt16?

    func validate() throws {
        guard every >= 0.1, every <= 86400 else { throw ValidationError("--every takes 0.1 to 86400 seconds") }
        guard TopView.Order(rawValue: sort) != nil else {
            throw ValidationError(
                "--sort takes one of \(TopView.Order.allCases.map(\.rawValue).joined(separator: ", "))")
        }
        if let count, count < 1 { throw ValidationError("--count takes a number from 1") }
    }

    func run() throws {
        var view = TopView(filter: SessionFilter(program: program, port: port))
        view.order = TopView.Order(rawValue: sort) ?? .bytes
        guard let terminal = Terminal() else { return plain(&view) }
        defer { terminal.restore() }
        watch(&view, terminal)
    }

    private func plain(_ view: inout TopView) {
        for look in 0... {
            if let count, look >= count { return }
            pause(every)
            view.refresh()
            guard emit((look == 0 ? "" : "\n") + view.plainLines().joined(separator: "\n") + "\n") else { return }
        }
    }

    private func watch(_ view: inout TopView, _ terminal: Terminal) {
        var typed: String?
        var looks = 0
        var next = libc_nanoseconds() + UInt64(every * 1e9)
        while true {
            let size = terminal.size
            terminal.draw(view.screen(width: size.width, height: size.height, prompt: typed.map { "filter: \($0)_" }))
            let now = libc_nanoseconds()
            switch terminal.wait(milliseconds: next > now ? Int((next - now) / 1_000_000) + 1 : 0) {
            case .end: return
            case .key(let byte): if !press(byte, &view, &typed) { return }
            case .timeout: break
            }
            guard libc_nanoseconds() >= next else { continue }
            looks += 1
            if let count, looks >= count { return }
            view.refresh()
            next = libc_nanoseconds() + UInt64(every * 1e9)
        }
    }

    /// One key; false ends. `typed` is the filter while it is being typed.
    private func press(_ byte: UInt8, _ view: inout TopView, _ typed: inout String?) -> Bool {
        if byte == 3 || byte == 4 { return false }
        if let text = typed {
            switch byte {
            case 0x0a, 0x0d:
                view.filter(by: SessionFilter(text))
                typed = nil
            case 0x1b: typed = nil
            case 0x7f, 0x08: typed = String(text.dropLast())
            case 0x20..<0x7f: typed = text + String(UnicodeScalar(byte))
            default: break
            }
            return true
        }
        let all = TopView.Order.allCases
        let index = all.firstIndex(of: view.order) ?? 0
        switch UnicodeScalar(byte) {
        case "q": return false
        case ">", ".": view.order = all[(index + 1) % all.count]
        case "<", ",": view.order = all[(index + all.count - 1) % all.count]
        case "r": view.isReversed.toggle()
        case "/", "f": typed = ""
        default: break
        }
        return true
    }
}

/// Sleeps, whatever signals come.
func pause(_ seconds: Double) {
    var rest = timespec(tv_sec: Int(seconds), tv_nsec: Int((seconds - seconds.rounded(.down)) * 1e9))
    var left = timespec()
    while nanosleep(&rest, &left) != 0, libc_errno() == EINTR { rest = left }
}
