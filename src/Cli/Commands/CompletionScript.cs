using System.CommandLine;
using System.Text;

namespace Godwit.Cli.Commands;

/// <summary>Generates the completion scripts from the command tree, so that they never lag behind it.</summary>
/// <remarks>
/// Verbs, options and fixed words stand in the script itself and cost nothing. Only names of guests, hosts and
/// migrations ask <see cref="NameCompletion"/>, which is bounded in time and silent without a daemon.
/// </remarks>
internal static class CompletionScript
{
    private sealed record Node(string Path, string[] Verbs, string[] Options, string Kind);

    public static string For(string shell, RootCommand root)
    {
        var nodes = new List<Node>();
        var values = new SortedDictionary<string, (string Kind, string Words)>(StringComparer.Ordinal);
        Collect(root, "", [.. root.Options], nodes, values);
        return shell switch
        {
            "bash" => Fill(Bash, PosixTables(nodes, values)),
            "zsh" => Fill(Zsh, PosixTables(nodes, values)),
            _ => Fill(Fish, FishTables(nodes, values)),
        };
    }

    private static void Collect(
        Command command, string path, Option[] inherited, List<Node> nodes,
        SortedDictionary<string, (string, string)> values)
    {
        Option[] own = [.. command.Options.Where(option => !option.Hidden)];
        Option[] options = [.. own.Union(inherited.Where(option => option.Recursive))];
        foreach (var option in options.Where(
            option => option.ValueType != typeof(bool) && option.Arity.MaximumNumberOfValues > 0))
        {
            foreach (string name in (string[])[option.Name, .. option.Aliases])
            {
                values[name] = Value(option);
            }
        }

        Command[] verbs = [.. command.Subcommands.Where(verb => !verb.Hidden)];
        string kind = command.Arguments.Count == 0 ? "" : command.Arguments[0].Name switch
        {
            "NAME" => "guests",
            "HOST" => "hosts",
            "ID" => "migrations",
            "CODE" => "codes",
            "SHELL" => "bash zsh fish",
            _ => "",
        };
        string[] names = [.. options.Select(option => option.Name)];
        nodes.Add(new Node(path, [.. verbs.Select(verb => verb.Name)], names, kind));
        foreach (var verb in verbs)
        {
            Collect(verb, path.Length == 0 ? verb.Name : $"{path} {verb.Name}", options, nodes, values);
        }
    }

    private static (string Kind, string Words) Value(Option option) => option switch
    {
        { Name: "--to" } => ("hosts", ""),
        { Name: "--guest" } => ("guests", ""),
        { HelpName: { } name } when name.StartsWith("PATH", StringComparison.Ordinal) => ("files", ""),
        { HelpName: { } name } when name.Contains('|') => ("", name.Replace('|', ' ')),
        _ => ("none", ""),
    };

    private static string Fill(string script, Dictionary<string, string> tables)
    {
        foreach (var (name, text) in tables)
        {
            script = script.Replace($"@{name}@", text, StringComparison.Ordinal);
        }

        return script.ReplaceLineEndings("\n");
    }

    private static Dictionary<string, string> PosixTables(
        List<Node> nodes, SortedDictionary<string, (string Kind, string Words)> values)
    {
        var nodeCases = new StringBuilder();
        foreach (var node in nodes)
        {
            bool fixedWords = node.Kind.Contains(' ');
            string verbs = string.Join(' ', fixedWords ? node.Kind.Split(' ') : node.Verbs);
            nodeCases.Append(Units.Invariant($"    \"{node.Path}\") verbs=\"{verbs}\" "))
                .Append(Units.Invariant($"kind=\"{(fixedWords ? "" : node.Kind)}\"\n"))
                .Append(Units.Invariant($"      options=\"{string.Join(' ', node.Options)}\" ;;\n"));
        }

        var valueCases = new StringBuilder();
        foreach (var (name, value) in values)
        {
            valueCases.Append(
                Units.Invariant($"    {name}) kind=\"{value.Kind}\" verbs=\"{value.Words}\" options=\"\" ;;\n"));
        }

        return new Dictionary<string, string>
        {
            ["valued"] = string.Join('|', values.Keys),
            ["paths"] = string.Join('|', nodes.Skip(1).Select(node => $"\"{node.Path}\"")),
            ["nodes"] = nodeCases.ToString().TrimEnd('\n'),
            ["values"] = valueCases.ToString().TrimEnd('\n'),
        };
    }

    private static Dictionary<string, string> FishTables(
        List<Node> nodes, SortedDictionary<string, (string Kind, string Words)> values)
    {
        var nodeCases = new StringBuilder();
        foreach (var node in nodes)
        {
            bool fixedWords = node.Kind.Contains(' ');
            string verbs = string.Join(' ', fixedWords ? node.Kind.Split(' ') : node.Verbs);
            nodeCases.Append(Units.Invariant($"        case '{node.Path}'\n"))
                .Append(Units.Invariant($"            set verbs {verbs}\n"))
                .Append(Units.Invariant($"            set kind '{(fixedWords ? "" : node.Kind)}'\n"))
                .Append(Units.Invariant($"            set options {string.Join(' ', node.Options)}\n"));
        }

        var valueCases = new StringBuilder();
        foreach (var (name, value) in values)
        {
            valueCases.Append(Units.Invariant($"        case '{name}'\n"))
                .Append(
                    Units.Invariant($"            set kind '{value.Kind}'; set verbs {value.Words}; set options\n"));
        }

        return new Dictionary<string, string>
        {
            ["valued"] = string.Join(' ', values.Keys.Select(name => $"'{name}'")),
            ["paths"] = string.Join(' ', nodes.Skip(1).Select(node => $"'{node.Path}'")),
            ["nodes"] = nodeCases.ToString().TrimEnd('\n'),
            ["values"] = valueCases.ToString().TrimEnd('\n'),
        };
    }

    private const string Bash = """
        # bash completion for godwit; generated by 'godwit completion bash'.
        _godwit() {
          local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
          local path="" socket="" word i=1 verbs="" options="" kind=""
          COMPREPLY=()
          while [ "$i" -lt "$COMP_CWORD" ]; do
            word=${COMP_WORDS[i]}
            case "$word" in
              --socket) i=$((i + 1)); socket=${COMP_WORDS[i]} ;;
              @valued@) i=$((i + 1)) ;;
              -*) ;;
              *) case "${path:+$path }$word" in
                   @paths@) path=${path:+$path }$word ;;
                 esac ;;
            esac
            i=$((i + 1))
          done
          case "$path" in
        @nodes@
          esac
          case "$previous" in
        @values@
          esac
          case "$current" in -*) verbs=$options kind="" ;; esac
          case "$kind" in
            guests|hosts|codes) verbs=$("${COMP_WORDS[0]}" __complete "$kind" "$socket" 2>/dev/null) ;;
            migrations) verbs=$("${COMP_WORDS[0]}" __complete migrations "$socket" 2>/dev/null) ;;
            files) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current")); return ;;
          esac
          COMPREPLY=($(compgen -W "$verbs" -- "$current"))
        }
        complete -F _godwit godwit

        """;

    private const string Zsh = """
        #compdef godwit
        # zsh completion for godwit; generated by 'godwit completion zsh'.
        _godwit() {
          local current=${words[CURRENT]} previous=${words[CURRENT-1]}
          local line="" socket="" word i=2 verbs="" options="" kind=""
          while (( i < CURRENT )); do
            word=${words[i]}
            case "$word" in
              --socket) (( i++ )); socket=${words[i]} ;;
              @valued@) (( i++ )) ;;
              -*) ;;
              *) case "${line:+$line }$word" in
                   @paths@) line=${line:+$line }$word ;;
                 esac ;;
            esac
            (( i++ ))
          done
          case "$line" in
        @nodes@
          esac
          case "$previous" in
        @values@
          esac
          case "$current" in -*) verbs=$options kind="" ;; esac
          case "$kind" in
            guests|hosts|codes|migrations)
              verbs=$(command ${(Q)words[1]} __complete "$kind" "$socket" 2>/dev/null) ;;
            files) _files; return ;;
          esac
          compadd -- ${=verbs}
        }
        if [ "$funcstack[1]" = _godwit ]; then _godwit "$@"; else compdef _godwit godwit; fi

        """;

    private const string Fish = """
        # fish completion for godwit; generated by 'godwit completion fish'.
        function __godwit_complete
            set -l tokens (commandline -opc)
            set -l current (commandline -ct)
            set -l program $tokens[1]
            set -l previous $tokens[-1]
            set -l path ''
            set -l socket ''
            set -l verbs
            set -l options
            set -l kind ''
            set -l skip ''
            for word in $tokens[2..-1]
                if test -n "$skip"
                    test "$skip" = --socket; and set socket $word
                    set skip ''
                else if contains -- $word @valued@
                    set skip $word
                else if not string match -q -- '-*' $word
                    set -l longer (string trim -- "$path $word")
                    contains -- $longer @paths@; and set path $longer
                end
            end
            switch "$path"
        @nodes@
            end
            switch "$previous"
        @values@
            end
            if string match -q -- '-*' "$current"
                set verbs $options
                set kind ''
            end
            switch "$kind"
                case guests hosts codes migrations
                    set verbs ($program __complete $kind "$socket" 2>/dev/null)
                case files
                    __fish_complete_path $current
                    return
            end
            printf '%s\n' $verbs
        end
        complete -c godwit -f -a '(__godwit_complete)'

        """;
}
