/// JSON by hand: what `stat` prints is flat, and Foundation is heavier than this.
indirect enum Json {
    case null
    case number(UInt64)
    case text(String)
    case object([(String, Json)])
    case array([Json])

    static func optional(_ value: UInt64?) -> Json { value.map { .number($0) } ?? .null }

    var line: String {
        switch self {
        case .null: "null"
        case .number(let value): "\(value)"
        case .text(let value): Self.quoted(value)
        case .object(let members): "{" + members.map { "\(Self.quoted($0)): \($1.line)" }.joined(separator: ", ") + "}"
        case .array(let elements): "[" + elements.map(\.line).joined(separator: ",\n ") + "]"
        }
    }

    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
