using System.CommandLine;
using System.CommandLine.Parsing;

namespace Godwit.Cli;

/// <summary>
/// The kinds of option the commands are made of; each reads strictly and says what it read and what it takes.
/// </summary>
internal static class OptionKinds
{
    private delegate bool ReadUnits(string text, out ulong value, out string error);

    extension(Option)
    {
        /// <summary>One word out of a list.</summary>
        public static Option<string> Among(
            string name, string description, string[] words, string? byDefault = null, params string[] aliases)
        {
            var option = new Option<string>(name, aliases)
            {
                Description = description,
                HelpName = string.Join('|', words),
                CustomParser = result =>
                {
                    string text = result.Tokens[^1].Value;
                    if (words.Contains(text, StringComparer.Ordinal))
                    {
                        return text;
                    }

                    result.AddError($"{name}: '{text}' is not one of {string.Join(", ", words)}.");
                    return null;
                },
            };
            option.CompletionSources.Add(
                _ => words.Select(word => new System.CommandLine.Completions.CompletionItem(word)));
            if (byDefault is not null)
            {
                option.DefaultValueFactory = _ => byDefault;
            }

            return option;
        }

        /// <summary>A size with its unit, in bytes; 0 when not given.</summary>
        public static Option<ulong> Bytes(string name, string description) =>
            WithUnits(name, description, "SIZE", Units.TryReadBytes);

        /// <summary>A rate with its unit, in bits per second; 0 when not given.</summary>
        public static Option<ulong> BitsPerSecond(string name, string description) =>
            WithUnits(name, description, "RATE", Units.TryReadBitsPerSecond);

        /// <summary>A duration with its unit, in milliseconds; 0 when not given.</summary>
        public static Option<ulong> Milliseconds(string name, string description) =>
            WithUnits(name, description, "TIME", Units.TryReadMilliseconds);

        /// <summary>A whole number from 1 up to <paramref name="max"/>; 0 when not given.</summary>
        public static Option<uint> Count(string name, string description, uint max) => new(name)
        {
            Description = description,
            HelpName = "N",
            CustomParser = result =>
            {
                string text = result.Tokens[^1].Value;
                if (uint.TryParse(text, System.Globalization.NumberStyles.None, null, out uint count)
                    && count >= 1 && count <= max)
                {
                    return count;
                }

                result.AddError($"{name}: '{text}' is not a whole number from 1 to {max}.");
                return 0;
            },
        };

        /// <summary>Processor cores, whole or in parts, above 0; 0 when not given.</summary>
        public static Option<double> Cores(string name, string description) => new(name)
        {
            Description = description,
            HelpName = "CORES",
            CustomParser = result =>
            {
                string text = result.Tokens[^1].Value;
                if (double.TryParse(
                        text, System.Globalization.NumberStyles.AllowDecimalPoint,
                        System.Globalization.CultureInfo.InvariantCulture, out double cores)
                    && cores is >= 0.05 and <= 1024)
                {
                    return cores;
                }

                result.AddError($"{name}: '{text}' is not a number of cores from 0.05 to 1024.");
                return 0;
            },
        };

        /// <summary>A switch that is off unless given.</summary>
        public static Option<bool> Flag(string name, string description, params string[] aliases) =>
            new(name, aliases) { Description = description };

        /// <summary>Text as it stands.</summary>
        public static Option<string> Text(string name, string description, string helpName) =>
            new(name) { Description = description, HelpName = helpName };
    }

    private static Option<ulong> WithUnits(string name, string description, string helpName, ReadUnits read) =>
        new(name)
        {
            Description = description,
            HelpName = helpName,
            CustomParser = result =>
            {
                if (read(result.Tokens[^1].Value, out ulong value, out string error) && value > 0)
                {
                    return value;
                }

                result.AddError(
                    $"{name}: {(error.Length > 0 ? error : $"'{result.Tokens[^1].Value}' must be above zero.")}");
                return 0;
            },
        };
}
