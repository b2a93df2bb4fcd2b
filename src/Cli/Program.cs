using Godwit.Cli;
using Godwit.Cli.Commands;

if (args is ["__complete", ..])
{
    return await NameCompletion.RunAsync(args, Console.Out);
}

var terminal = Terminal.OfProcess();
// git-style: everything behind 'lab' belongs to the lab's own program, --help included.
return args is ["lab", ..]
    ? LabCommand.Run(terminal, args.AsSpan(1).ToArray())
    : await new GodwitCommand(terminal).RunAsync(args);
