import ArgumentParser
import CLibc

struct Run: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a program with its same-host TCP connections switched to shared memory.",
        discussion: """
            The program and all it starts are served. Becomes the program: its exit status is the program's; 127 when the \
            command is not found, 126 when it cannot be executed, 1 when the library is missing.

            EXAMPLES
              sanswitch run -- redis-server --port 7000
              sanswitch run --log=/tmp/switch.log -- curl http://localhost:8080/
              sanswitch run --off -- iperf3 -s      the same command on plain TCP
            """)

    @Option(
        help: ArgumentHelp(
            "Log the switch's decisions, to standard error (--log) or to a file (--log=FILE).", valueName: "file"))
    var log: String?

    @Flag(help: "Load the library but leave every connection on TCP.")
    var off = false

    @Option(
        help: ArgumentHelp("Calls that move data on TCP before a connection looks for a companion.", valueName: "n"))
    var afterCalls: UInt64?

    @Option(help: ArgumentHelp("Bytes on TCP before a connection looks for a companion.", valueName: "n"))
    var afterBytes: UInt64?

    @Option(help: ArgumentHelp("Longest spin before a sleep, microseconds (at most 10000).", valueName: "us"))
    var spinUs: UInt64?

    @Option(
        help: ArgumentHelp("Configuration to read instead of the system's and the user's.", valueName: "file"),
        completion: .file())
    var config: String?

    @Option(help: ArgumentHelp("The library to preload, instead of ../lib/libsanswitch.so.", valueName: "file"))
    var library: String?

    @Argument(help: ArgumentHelp("The program and its arguments.", valueName: "command"))
    var command: [String] = []

    func validate() throws {
        guard !command.isEmpty else { throw ValidationError("Name the program to run: sanswitch run -- CMD ARGS") }
    }

    func run() throws {
        let name = command[0]
        let library = try locate()
        let program = try Program.find(name)
        if let reason = program.ignoresPreload { warn("warning: \(name) \(reason): its connections stay on TCP") }
        setenv("LD_PRELOAD", Library.preload(library), 1)
        setVariables()
        let arguments = command.map { strdup($0) } + [nil]
        execvp(name, arguments)
        warn("\(name): \(describe(libc_errno()))")
        throw ExitCode(126)
    }

    /// `arguments` with what the parser cannot guess made plain: `--log` alone takes no value, and the first word that is no
    /// option begins the command, whose options are not ours.
    static func normalize(_ arguments: [String]) -> [String] {
        var normal: [String] = []
        var isValue = false
        for (index, argument) in arguments.enumerated() {
            if isValue {
                isValue = false
            } else if argument == "--" {
                return normal + arguments[index...]
            } else if !argument.hasPrefix("-") {
                return normal + ["--"] + arguments[index...]
            } else {
                isValue = ["--after-calls", "--after-bytes", "--spin-us", "--config", "--library"].contains(argument)
            }
            normal.append(argument == "--log" ? "--log=-" : argument)
        }
        return normal
    }

    private func locate() throws -> String {
        guard let path = library.map(absolute) ?? Library.find() else {
            warn(
                "\(Library.name) not found (looked at \(Library.candidates.joined(separator: ", "))): run `make build` first"
            )
            throw ExitCode(1)
        }
        if let reason = Library.unusable(path) {
            warn("\(reason)")
            throw ExitCode(1)
        }
        return path
    }

    private func setVariables() {
        if let log { setenv("SAN_LOG", log == "-" ? "debug" : "debug:" + absolute(log), 1) }
        if off { setenv("SAN", "off", 1) }
        if let config { setenv("SAN_CONFIG", config.isEmpty ? "" : absolute(config), 1) }
        if let afterCalls { setenv("SAN_AFTER_CALLS", "\(afterCalls)", 1) }
        if let afterBytes { setenv("SAN_AFTER_BYTES", "\(afterBytes)", 1) }
        if let spinUs { setenv("SAN_SPIN_US", "\(spinUs)", 1) }
    }
}
