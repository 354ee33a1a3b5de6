import ArgumentParser
import CLibc
import Configuration
import Libc

struct Config: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show, check and explain the configuration.",
        discussion: """
            Without options, shows which files a program started from here would read, what each setting is and where it comes \
            from, and the rules. With --connect or --listen, says which rule decides.

            EXAMPLES
              sanswitch config
              sanswitch config --check /etc/sanswitch/sanswitch.conf
              sanswitch config --connect 10.0.0.1:5432 --program psql
              sanswitch config --explain spin-us
            """)

    @Flag(help: "Check the files that are named, or those that a program would read. Exit status: 0 fine, 1 not.")
    var check = false

    @Flag(help: "Explain the settings that are named, or all: unit, default, effect.")
    var explain = false

    @Option(help: ArgumentHelp("Which rule decides for a client of this server.", valueName: "address:port"))
    var connect: String?

    @Option(help: ArgumentHelp("Which rule decides for a server at this address.", valueName: "address:port"))
    var listen: String?

    @Option(help: ArgumentHelp("With --connect or --listen: for this program, a name or a path.", valueName: "program"))
    var program: String?

    enum Format: String, ExpressibleByArgument { case text, mdoc, markdown }

    /// For the generated parts of the documentation.
    @Option(help: .hidden)
    var format = Format.text

    @Argument(help: ArgumentHelp("Files for --check, settings for --explain.", valueName: "name"), completion: .file())
    var names: [String] = []

    func validate() throws {
        if !names.isEmpty, !check, !explain { throw ValidationError("\(names[0]) is for --check or --explain") }
        if check, explain { throw ValidationError("--check and --explain exclude each other") }
        for text in [connect, listen].compactMap({ $0 }) where Self.address(text) == nil {
            throw ValidationError("\(text) is no ADDRESS:PORT (an IPv6 address takes brackets: [::1]:5201)")
        }
    }

    func run() throws {
        if explain { return print(try Explanation(names).text(format)) }
        let report = check && !names.isEmpty ? ConfigurationReport(files: names) : ConfigurationReport()
        if check { return try show(check: report) }
        if let connect { return decide(report, .connect, connect) }
        if let listen { return decide(report, .listen, listen) }
        show(report)
        if let fault = report.fault {
            warn("\(fault)\nEvery program stays on TCP until this is mended.")
            throw ExitCode(1)
        }
    }

    private func show(check report: ConfigurationReport) throws {
        for file in report.files {
            switch file.state {
            case .read: print("\(file.path): fine")
            case .absent: print("\(file.path): not there")
            case .unreadable, .wrong: print(file.fault ?? "")
            }
        }
        if report.fault != nil { throw ExitCode(1) }
    }

    private func show(_ report: ConfigurationReport) {
        for file in report.files {
            switch file.state {
            case .read: print("read    \(file.path)")
            case .absent: print("absent  \(file.path)")
            case .unreadable, .wrong: print("WRONG   \(file.path)")
            }
        }
        if report.files.isEmpty { print("no file (SAN_CONFIG is empty)") }
        var table = Table([
            .init(title: "SETTING"), .init(title: "VALUE", isNumber: true), .init(title: "UNIT"), .init(title: "FROM"),
        ])
        for knob in Knob.allCases {
            guard let name = knob.name else { continue }
            let value = report.values[knob]
            table.add([
                name.description, "\(value?.value ?? knob.standard)", knob.unit.description, value?.origin ?? "default",
            ])
        }
        print("\n" + table.lines().joined(separator: "\n"))
        guard !report.rules.isEmpty else { return print("\nno rules: every program and address is allowed") }
        print("\nRules, the first that matches decides:")
        for rule in report.rules { print("  \(printable(rule.text))    (\(rule.place))") }
    }

    private func decide(_ report: ConfigurationReport, _ role: Role, _ text: String) {
        guard let address = Self.address(text) else { return }
        let name = program.map { String($0.split(separator: "/").last ?? "") } ?? ""
        let path = program.map { $0.contains("/") ? absolute($0) : "/\($0)" } ?? "/"
        if let fault = report.fault { return print("stays on TCP: \(fault)") }
        guard let rule = report.decides(role, address, path: path, name: name) else {
            return print("allowed: no rule matches")
        }
        print("\(rule.rule.isAllowed ? "allowed" : "stays on TCP") by \(rule.place): \(printable(rule.text))")
    }

    private static func address(_ text: String) -> SocketAddress? {
        guard let endpoint = Endpoint(text) else { return nil }
        let host = endpoint.host == "localhost" ? "127.0.0.1" : endpoint.host
        return Array(host.utf8).withUnsafeBytes { SocketAddress(text: $0) }.map {
            SocketAddress(high: $0.high, low: $0.low, port: endpoint.port)
        }
    }
}
