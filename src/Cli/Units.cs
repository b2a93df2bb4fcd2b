using System.Globalization;

namespace Godwit.Cli;

/// <summary>Sizes, rates and durations as people write them, read strictly and printed for people.</summary>
/// <remarks>
/// A number without a unit is refused: bytes or MiB, bits or bytes, seconds or milliseconds is exactly what goes wrong
/// on a command line. Sizes keep IEC and SI apart (1 GiB is 1024 MiB, 1 GB is 1000 MB).
/// </remarks>
internal static class Units
{
    private static readonly (string Suffix, decimal Factor)[] Sizes =
    [
        ("B", 1m), ("KiB", 1024m), ("MiB", 1024m * 1024), ("GiB", 1024m * 1024 * 1024),
        ("TiB", 1024m * 1024 * 1024 * 1024), ("kB", 1e3m), ("MB", 1e6m), ("GB", 1e9m), ("TB", 1e12m),
    ];

    private static readonly (string Suffix, decimal Factor)[] Rates =
    [
        ("bit", 1m), ("kbit", 1e3m), ("Mbit", 1e6m), ("Gbit", 1e9m),
        ("bit/s", 1m), ("kbit/s", 1e3m), ("Mbit/s", 1e6m), ("Gbit/s", 1e9m),
        ("kB/s", 8e3m), ("MB/s", 8e6m), ("GB/s", 8e9m),
        ("KiB/s", 8m * 1024), ("MiB/s", 8m * 1024 * 1024), ("GiB/s", 8m * 1024 * 1024 * 1024),
    ];

    private static readonly (string Suffix, decimal Factor)[] Milliseconds =
    [
        ("ms", 1m), ("s", 1e3m), ("m", 60e3m), ("min", 60e3m), ("h", 3600e3m), ("d", 86400e3m),
    ];

    /// <summary>Reads a size such as <c>1.5GiB</c> as whole bytes.</summary>
    public static bool TryReadBytes(string text, out ulong bytes, out string error) =>
        TryRead(text, Sizes, "a size", "512MiB, 1.5GiB, 2GB", long.MaxValue, out bytes, out error);

    /// <summary>Reads a rate such as <c>400Mbit</c> or <c>50MB/s</c> as bits per second.</summary>
    public static bool TryReadBitsPerSecond(string text, out ulong bitsPerSecond, out string error) =>
        TryRead(text, Rates, "a rate", "400Mbit, 1Gbit/s, 50MB/s", long.MaxValue, out bitsPerSecond, out error);

    /// <summary>Reads a duration such as <c>300ms</c> or <c>2m</c> as whole milliseconds.</summary>
    public static bool TryReadMilliseconds(string text, out ulong milliseconds, out string error) =>
        TryRead(text, Milliseconds, "a duration", "300ms, 1.5s, 2m, 1h", uint.MaxValue, out milliseconds, out error);

    private static bool TryRead(
        string text, (string Suffix, decimal Factor)[] units, string what, string examples, decimal max,
        out ulong value, out string error)
    {
        value = 0;
        var trimmed = text.AsSpan().Trim();
        int digits = 0;
        while (digits < trimmed.Length && (char.IsAsciiDigit(trimmed[digits]) || trimmed[digits] == '.'))
        {
            digits++;
        }

        string suffix = trimmed[digits..].Trim().ToString();
        bool isNumber = decimal.TryParse(
            trimmed[..digits], NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number);
        if (!isNumber)
        {
            error = $"'{text}' is not {what}: it must be a number and a unit, as in {examples}.";
            return false;
        }

        if (suffix.Length == 0)
        {
            error = $"'{text}' has no unit: {what} is written as in {examples}.";
            return false;
        }

        foreach (var (name, factor) in units)
        {
            if (!name.Equals(suffix, StringComparison.OrdinalIgnoreCase))
            {
                continue;
            }

            // Dividing the limit instead of multiplying the number keeps decimal from overflowing.
            if (number > max / factor)
            {
                error =
                    $"'{text}' is too large: the limit is {(max / factor).ToString("0", CultureInfo.InvariantCulture)}"
                    + $" {name}.";
                return false;
            }

            decimal exact = number * factor;
            if (exact != decimal.Truncate(exact))
            {
                error = $"'{text}' is finer than {what} can be; {examples} are accepted.";
                return false;
            }

            value = (ulong)exact;
            error = "";
            return true;
        }

        string accepted = string.Join(", ", units.Select(unit => unit.Suffix));
        error = $"'{text}' has the unit '{suffix}', which is not one of {accepted}.";
        return false;
    }

    /// <summary>Bytes for people, for example <c>1.5 GiB</c>; in wide output with the exact number beside it.</summary>
    public static string Bytes(double bytes, bool wide = false)
    {
        string text = Scaled(bytes, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
        return wide && bytes >= 1024 ? Invariant($"{text} ({bytes:0} B)") : text;
    }

    /// <summary>A rate on a wire, for example <c>94.2 Mbit/s</c>; in wide output in bytes as well.</summary>
    public static string BitsPerSecond(double bits, bool wide = false)
    {
        string text = Scaled(bits, 1000, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
        return wide ? $"{text} ({BytesPerSecond(bits / 8)})" : text;
    }

    /// <summary>A rate of memory, for example <c>12.1 MiB/s</c>; in wide output in bits as well.</summary>
    public static string BytesPerSecond(double bytes, bool wide = false)
    {
        string text = Scaled(bytes, 1024, ["B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s"]);
        return wide ? $"{text} ({BitsPerSecond(bytes * 8)})" : text;
    }

    /// <summary>A span for people: <c>87 ms</c>, <c>12.3 s</c>, <c>2 m 05 s</c>, <c>1 h 04 m</c>.</summary>
    public static string Duration(double seconds)
    {
        // Each bound is where rounding would reach the next unit, so that 59.96 s never reads "60.0 s".
        if (seconds < 0.9995)
        {
            return Invariant($"{seconds * 1000:0} ms");
        }

        if (seconds < 59.95)
        {
            return Invariant($"{seconds:0.0} s");
        }

        long whole = (long)Math.Round(seconds);
        return whole < 3600
            ? Invariant($"{whole / 60} m {whole % 60:00} s")
            : Invariant($"{whole / 3600} h {whole % 3600 / 60:00} m");
    }

    /// <summary>A pause for people: with a decimal below 100 ms, because that is where it is argued about.</summary>
    public static string Pause(double milliseconds) => milliseconds switch
    {
        <= 0 => "0 ms",
        < 99.95 => Invariant($"{milliseconds:0.0} ms"),
        < 9999.5 => Invariant($"{milliseconds:0} ms"),
        _ => Duration(milliseconds / 1000),
    };

    public static string Invariant(FormattableString text) => FormattableString.Invariant(text);

    private static string Scaled(double value, double step, string[] names)
    {
        int unit = 0;
        while (unit < names.Length - 1 && value >= step * 0.9995)
        {
            value /= step;
            unit++;
        }

        return unit == 0 || value >= 99.95
            ? Invariant($"{value:0} {names[unit]}")
            : Invariant($"{value:0.#} {names[unit]}");
    }
}
