using System.Runtime.CompilerServices;

[assembly: InternalsVisibleTo("Godwit.Simulation.Tests")]
