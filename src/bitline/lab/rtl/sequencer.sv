// Input buffer, bit-serial sequencer and shift-add: one vector of unsigned inputs through all passes and lanes.
//
// Vectors are loaded a row at a time. `start` drives the word lines with bit 0, 1, … of every input, one pass after the
// other, and reads the lanes `first` … `first + lanes - 1` in each. Codes come out one a cycle; in the mode `sums` those
// of a lane are added up, shifted by the number of the pass, and come out in the last pass.
module sequencer #(
    parameter int ROWS = 16,
    parameter int LANES = 24,
    parameter int PASSES = 3
) (
    input  logic            clk,
    input  logic            reset,
    input  logic            clear,
    input  logic            load,
    input  logic [15:0]     load_row,
    input  logic [15:0]     load_value,
    input  logic            start,
    input  logic [1:0]      mode,  // 0 digits, 1 codes, 2 sums
    input  logic [15:0]     first,
    input  logic [15:0]     lanes,
    output logic            busy,
    output logic            valid,
    output logic [31:0]     value,
    // the analog side
    output logic [ROWS-1:0] word_lines,
    output logic [15:0]     lane,
    input  logic [15:0]     code
);
    logic [15:0] inputs [ROWS];
    logic [31:0] sums [LANES];
    logic [15:0] place;
    logic [4:0] pass, passes;
    logic [31:0] added;

    assign passes = mode == 0 ? 1 : PASSES;
    assign lane = first + place;
    assign added = (pass == 0 ? 0 : sums[place]) + ({16'b0, code} << pass);
    assign valid = busy && (mode != 2 || pass == passes - 1);
    assign value = mode == 2 ? added : {16'b0, code};

    always_comb for (int r = 0; r < ROWS; r++) word_lines[r] = busy && inputs[r][pass[3:0]];

    always_ff @(posedge clk) begin
        if (reset) busy <= 0;
        else begin
            if (clear) for (int r = 0; r < ROWS; r++) inputs[r] <= 0;
            else if (load) inputs[load_row] <= load_value;
            if (start) begin
                busy <= 1;
                pass <= 0;
                place <= 0;
            end else if (busy) begin
                sums[place] <= added;
                place <= place + 1;
                if (place == lanes - 1) begin
                    place <= 0;
                    pass <= pass + 1;
                    if (pass == passes - 1) busy <= 0;
                end
            end
        end
    end
endmodule
