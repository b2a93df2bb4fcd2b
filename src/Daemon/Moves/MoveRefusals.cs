using Godwit.Api.V1;
using Godwit.Migration;

namespace Godwit.Daemon.Moves;

internal static class MoveRefusals
{
    /// <summary>Refuses a move with every reason; one reason keeps its own code.</summary>
    public static void Throw(string guest, string destination, IReadOnlyList<Refusal> refusals)
    {
        switch (refusals)
        {
            case []:
                return;
            case [var only]:
                throw new GodwitException(only.Code, only.Message, only.Remedy);
            default:
                throw new GodwitException("migration-refused",
                    $"Guest '{guest}' cannot move to host '{destination}' for {refusals.Count} reasons:"
                    + string.Concat(refusals.Select(one => $"\n  {one.Code}: {one.Message}")),
                    string.Join(" ", refusals.Select(one => one.Remedy).Distinct()));
        }
    }
}
