import CLibc
import Configuration
import Glibc
import Libc

/// The configuration as a program started from here would find it, with the place that each word comes from.
struct ConfigurationReport {
    struct File {
        enum State {
            case read
            case absent
            case unreadable(CInt)
            case wrong(line: Int, expected: String, text: String)
        }

        let path: String
        let state: State

        /// What is wrong with it; nil when nothing is.
        var fault: String? {
            switch state {
            case .read, .absent: nil
            case .unreadable(let code): "\(path): \(describe(code))"
            case .wrong(let line, let expected, let text):
                "\(path):\(line): expected \(expected), found: \(printable(text))"
            }
        }
    }

    struct PlacedRule {
        let rule: Rule
        /// Empty: every program.
        let program: [UInt8]
        let text: String
        /// FILE:LINE
        let place: String
    }

    private(set) var files: [File] = []
    private(set) var values: [Knob: (value: UInt64, origin: String)] = [:]
    private(set) var rules: [PlacedRule] = []

    static let system = "/etc/sanswitch/sanswitch.conf"

    /// As the library looks for them in a program with these variables.
    init(_ variables: [String: String]? = nil) {
        func environment(_ name: String) -> String? { variables.map { $0[name] } ?? sanswitch.environment(name) }
        if let named = environment("SAN_CONFIG") {
            if !named.isEmpty { add(named, mustExist: true) }
        } else {
            add(Self.system, mustExist: false)
            if let user = Self.userFile(environment) { add(user, mustExist: false) }
        }
        for knob in Knob.allCases where knob.isNumber {
            let name = knob.environment.description
            guard let value = environment(name).flatMap({ Self.decimal($0) }) else { continue }
            values[knob] = (min(value, knob.most), name)
        }
    }

    /// These files only, for a check.
    init(files paths: [String]) { for path in paths { add(path, mustExist: true) } }

    private static func userFile(_ environment: (String) -> String?) -> String? {
        if let directory = environment("XDG_CONFIG_HOME"), directory.hasPrefix("/") {
            return "\(directory)/sanswitch/sanswitch.conf"
        }
        return environment("HOME").flatMap { $0.isEmpty ? nil : "\($0)/.config/sanswitch/sanswitch.conf" }
    }

    static func decimal(_ text: String) -> UInt64? { Array(text.utf8).withUnsafeBytes { $0.decimal } }

    /// The first thing that keeps every program on TCP.
    var fault: String? { files.lazy.compactMap(\.fault).first }

    /// The rule that decides for a program; nil when none does, which allows.
    func decides(_ role: Role, _ address: SocketAddress, path: String, name: String) -> PlacedRule? {
        rules.first { $0.rule.matches(role, address) && ($0.program.isEmpty || Self.matches($0.program, path, name)) }
    }

    private static func matches(_ pattern: [UInt8], _ path: String, _ name: String) -> Bool {
        pattern.withUnsafeBytes { a in
            Array(path.utf8).withUnsafeBytes { b in
                // The kernel keeps 15 bytes.
                Array(name.utf8.prefix(15)).withUnsafeBytes { c in Pattern.matches(a, path: b, name: c) }
            }
        }
    }

    private mutating func add(_ path: String, mustExist: Bool) {
        let fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        let code = libc_errno()
        if fd >= 0 { close(fd) }
        guard fd >= 0 else {
            let isAbsent = [ENOENT, ENOTDIR, EACCES].contains(code) && !mustExist
            return files.append(File(path: path, state: isAbsent ? .absent : .unreadable(code)))
        }
        guard let bytes = readFile(path, limit: Parser.limit) else {
            return files.append(File(path: path, state: .unreadable(libc_errno())))
        }
        guard bytes.count < Parser.limit else {
            return files.append(
                File(path: path, state: .wrong(line: 1, expected: "less than \(Parser.limit) bytes", text: "more")))
        }
        files.append(File(path: path, state: parse(bytes, path)))
    }

    private mutating func parse(_ bytes: [UInt8], _ path: String) -> File.State {
        bytes.withUnsafeBytes { raw in
            var parser = Parser(raw)
            while let statement = parser.next() {
                let text = String(decoding: parser.lineText, as: UTF8.self)
                let place = "\(path):\(parser.line)"
                switch statement {
                case .knob(let knob, let value): values[knob] = (value, place)
                case .rule(let rule, program: let program):
                    rules.append(PlacedRule(rule: rule, program: Array(program), text: text, place: place))
                    if rules.count > Parser.ruleLimit {
                        return .wrong(line: parser.line, expected: "at most \(Parser.ruleLimit) rules", text: text)
                    }
                case .wrong(let expected):
                    return .wrong(line: parser.line, expected: expected.words.description, text: text)
                }
            }
            return .read
        }
    }
}
