import ArgumentParser
import Configuration

/// The knob table in words; what the manual and the reference page are made of.
struct Explanation {
    private let knobs: [Knob]

    /// All of them, or those that are named as in a file or as in the environment.
    init(_ names: [String]) throws {
        if names.isEmpty {
            knobs = Knob.allCases
            return
        }
        knobs = try names.map { name in
            guard let knob = Knob.allCases.first(where: { $0.label == name || $0.environment.description == name })
            else {
                let known = Knob.allCases.map(\.label).joined(separator: ", ")
                throw ValidationError("there is no setting \(name); there are: \(known)")
            }
            return knob
        }
    }

    func text(_ format: Config.Format) -> String {
        switch format {
        case .text: knobs.map(Self.plain).joined(separator: "\n\n")
        case .markdown: Self.markdown(knobs)
        case .mdoc: knobs.map(Self.mdoc).joined(separator: "\n")
        }
    }

    private static func plain(_ knob: Knob) -> String {
        var lines = [knob.label]
        if knob.isNumber { lines.append("  environment  \(knob.environment)") }
        lines.append("  \(knob.isNumber ? "unit       " : "values     ")  \(knob.unit)")
        lines.append("  default      \(knob.standardWords)")
        lines.append(
            "  effect       "
                + wrapped(knob.effect.description, at: 64).joined(separator: "\n" + String(repeating: " ", count: 15)))
        return lines.joined(separator: "\n")
    }

    private static func markdown(_ knobs: [Knob]) -> String {
        let rows = knobs.map { knob in
            let name = knob.name.map { "`\($0)`" } ?? "-"
            return "| \(name) | `\(knob.environment)` | \(knob.unit) | \(knob.standardWords) | \(knob.effect) |"
        }
        return
            ([
                "| in a file | in the environment | unit or values | default | effect |",
                "| --- | --- | --- | --- | --- |",
            ]
            + rows).joined(separator: "\n")
    }

    private static func mdoc(_ knob: Knob) -> String {
        let name = knob.name.map { ".It Li \($0) Pq Ev \(knob.environment)" } ?? ".It Ev \(knob.environment)"
        // mdoc(7) wants each sentence on a line of its own.
        let effect = knob.effect.description.split(separator: " ").reduce(into: "") {
            $0 += ($0.isEmpty ? "" : $0.hasSuffix(".") ? "\n" : " ") + $1
        }
        return
            "\(name)\n\(effect)\n\(knob.isNumber ? "Unit" : "Values"): \(knob.unit); default: \(knob.standardWords)."
    }

    private static func wrapped(_ text: String, at width: Int) -> [String] {
        var lines = [""]
        for word in text.split(separator: " ") {
            if lines[lines.count - 1].count + word.count + 1 > width { lines.append("") }
            lines[lines.count - 1] += (lines[lines.count - 1].isEmpty ? "" : " ") + word
        }
        return lines
    }
}

extension Knob {
    /// As a file names it, or the variable where a file cannot.
    var label: String { (name ?? environment).description }

    var standardWords: String {
        guard isNumber else { return standardText.description }
        return "\(standard)" + (most < 1_000_000 ? ", at most \(most)" : "")
    }
}
