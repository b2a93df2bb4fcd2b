using System.CommandLine;
using Godwit.Api.V1;
using Godwit.Cli.Output;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit policy ...</c>: what a migration does when its rounds do not shrink.</summary>
internal static class PolicyCommands
{
    public static Command Build(GodwitCommand godwit) => godwit.Noun(
        "policy", "What a migration does, step by step, when its rounds do not shrink: list, show.",
        ["godwit policy list", "godwit policy show safe"], [List(godwit), Show(godwit)]);

    private static Command List(GodwitCommand godwit) => godwit.Verb(
        "list", "List the policies that this host knows.", ["godwit policy list", "godwit policy list -o name"], [],
        async (session, cancellation) =>
        {
            session.Answer(PolicyAnswers.List(await ReadAsync(session, cancellation)));
            return 0;
        });

    private static Command Show(GodwitCommand godwit)
    {
        var name = new Argument<string>("NAME") { Description = "The policy's name." };
        return godwit.Verb(
            "show", "Show a policy's steps and when each is taken.", ["godwit policy show default"], [name],
            async (session, cancellation) =>
            {
                var policies = await ReadAsync(session, cancellation);
                var policy = policies.FirstOrDefault(one => one.Name == session.Get(name))
                    ?? throw new CommandException("policy-unknown",
                        $"there is no policy '{session.Get(name)}'; there are "
                        + $"{string.Join(", ", policies.Select(one => one.Name))}.");
                session.Answer(PolicyAnswers.Show(policy));
                return 0;
            });
    }

    private static async Task<IReadOnlyList<Policy>> ReadAsync(Session session, CancellationToken cancellation) =>
        (await session.Client.AskAsync(
            (daemon, options) => daemon.ListPoliciesAsync(new ListPoliciesRequest(), options), cancellation)).Policies;
}
